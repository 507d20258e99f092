"""Qualcomm's AIMET as a reader of encodings, in a separate environment whose Python `SRPTQ_AIMET` names."""

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


def simulated(network: Path, encodings: Path, image: NDArray[Any], expected: NDArray[Any]) -> Mapping[str, Any]:
    """Simulate a network with encodings in AIMET and return the differences from the expected output.

    Skips the test if AIMET is not there.
    """
    folder = encodings.parent
    arrays = {"input": image, "output": expected}
    for name, values in arrays.items():
        np.save(folder / f"{name}.npy", values)
    return _run_client("aimet_encodings", network, encodings, *(folder / f"{name}.npy" for name in arrays))


def quantized(network: Path, hardware: str) -> set[str]:
    """Return the tensors that AIMET quantizes for one kind of hardware. Skips the test if AIMET is not there."""
    return set(_run_client("aimet_placement", network, hardware))


def decibels(record: Mapping[str, Any]) -> float:
    return 10 * math.log10(record["range"] ** 2 / record["mean_square"]) if record["mean_square"] else math.inf


def _run_client(client: str, *arguments: Path | str) -> Any:
    python = os.environ.get("SRPTQ_AIMET")
    if not python:
        pytest.skip("SRPTQ_AIMET names no Python that has aimet-onnx")
    # The other Python must not import this environment's packages.
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(  # noqa: S603 - a Python that the tester chose
        [python, str(CLIENTS / f"{client}.py"), *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])
