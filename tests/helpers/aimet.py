"""Qualcomm's AIMET as a reader of encodings, in an environment of its own: `SRPTQ_AIMET` names that Python."""

import json
import math
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

CLIENTS = Path(__file__).parents[1] / "clients"


def simulated(network: Path, encodings: Path, image: NDArray[Any], wanted: NDArray[Any]) -> Mapping[str, Any]:
    """How AIMET's simulation of two files differs from what is wanted of an image; skips where there is no AIMET."""
    folder = encodings.parent
    arrays = {"input": image, "output": wanted}
    for name, values in arrays.items():
        np.save(folder / f"{name}.npy", values)
    return _said("aimet_encodings", network, encodings, *(folder / f"{name}.npy" for name in arrays))


def quantized(network: Path, hardware: str) -> set[str]:
    """The tensors that AIMET quantizes by one of Qualcomm's own settings; skips where there is no AIMET."""
    return set(_said("aimet_placement", network, hardware))


def _said(client: str, *arguments: Path | str) -> Any:
    python = os.environ.get("SRPTQ_AIMET")
    if not python:
        pytest.skip("SRPTQ_AIMET names no Python that has aimet-onnx")
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(  # noqa: S603 - whom the tester names
        [python, str(CLIENTS / f"{client}.py"), *map(str, arguments)],
        env=kept,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def decibels(record: Mapping[str, Any]) -> float:
    return 10 * math.log10(record["range"] ** 2 / record["mean_square"]) if record["mean_square"] else math.inf
