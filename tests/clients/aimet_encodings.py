"""Comparison of AIMET's simulation of a float ONNX file with encodings to an expected output.

python aimet_encodings.py network.onnx encodings.json input.npy output.npy
"""

import contextlib
import json
import sys
from pathlib import Path

import numpy as np
import onnx
from aimet_onnx.quantsim import QuantizationSimModel, load_encodings_to_sim  # pyright: ignore[reportMissingImports]


def main(network: str, encodings: str, image: str, expected: str) -> None:
    """Print the differences between AIMET's output and the expected one as JSON."""
    with contextlib.redirect_stdout(sys.stderr):
        simulation = QuantizationSimModel(onnx.load(network))
        load_encodings_to_sim(simulation, encodings, strict=False)
    session = simulation.session
    output = session.run(None, {session.get_inputs()[0].name: np.load(image)})[0]
    target = np.load(expected)
    error = float(np.square(output.astype(np.float64) - target).mean())
    record = {
        "largest": float(np.abs(output - target).max()),
        "mean_square": error,
        "range": float(np.ptp(target)),
        "version": json.loads(Path(encodings).read_text(encoding="utf-8"))["version"],
    }
    print(json.dumps(record))  # noqa: T201 - the caller reads it


if __name__ == "__main__":
    main(*sys.argv[1:])
