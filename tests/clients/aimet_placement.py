"""Tensors that AIMET quantizes with Qualcomm's settings for one kind of hardware.

python aimet_placement.py network.onnx htp_quantsim_config_v73
"""

import contextlib
import json
import sys
from pathlib import Path

import aimet_onnx.common.quantsim_config as settings  # pyright: ignore[reportMissingImports]
import onnx
from aimet_onnx.quantsim import QuantizationSimModel  # pyright: ignore[reportMissingImports]


def main(network: str, hardware: str) -> None:
    """Print the names of the quantized tensors as JSON."""
    path = Path(next(iter(settings.__path__))) / f"{hardware}.json"
    with contextlib.redirect_stdout(sys.stderr):
        simulation = QuantizationSimModel(onnx.load(network), config_file=str(path))
    enabled = [name for name, quantizer in simulation.qc_quantize_op_dict.items() if quantizer.enabled]
    print(json.dumps(enabled))  # noqa: T201 - the caller reads it


if __name__ == "__main__":
    main(*sys.argv[1:])
