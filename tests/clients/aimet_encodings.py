"""AIMET's simulation of a float ONNX file with encodings, beside what somebody else computed.

python aimet_encodings.py network.onnx encodings.json input.npy output.npy
"""

import contextlib
import json
import sys
from pathlib import Path

import numpy as np
import onnx
from aimet_onnx.quantsim import QuantizationSimModel, load_encodings_to_sim  # pyright: ignore[reportMissingImports]


def main(network: str, encodings: str, image: str, wanted: str) -> None:
    """Print how far AIMET is from what was wanted."""
    with contextlib.redirect_stdout(sys.stderr):
        simulation = QuantizationSimModel(onnx.load(network))
        load_encodings_to_sim(simulation, encodings, strict=False)
    session = simulation.session
    found = session.run(None, {session.get_inputs()[0].name: np.load(image)})[0]
    target = np.load(wanted)
    error = float(np.square(found.astype(np.float64) - target).mean())
    record = {
        "largest": float(np.abs(found - target).max()),
        "mean_square": error,
        "range": float(np.ptp(target)),
        "version": json.loads(Path(encodings).read_text(encoding="utf-8"))["version"],
    }
    print(json.dumps(record))  # noqa: T201 - it is what the caller reads


if __name__ == "__main__":
    main(*sys.argv[1:])
