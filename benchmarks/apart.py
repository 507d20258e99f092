"""Networks by others: how a zoo's entry is quantized, and a measurement of one in a process of its own."""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def measure_apart(choice: list[str], limit: float) -> Mapping[str, Any]:
    """Run this program again for one measurement, and return its row, or the reason why there is none.

    Args:
        choice: The arguments that choose it. `--worker` and the file for its row follow.
        limit: The seconds that it may take.
    """
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "row.json"
        command = [sys.executable, *sys.argv, *choice, "--worker", str(answer)]
        start = time.monotonic()
        try:
            done = subprocess.run(command, timeout=limit, capture_output=True, text=True, check=False)  # noqa: S603
        except subprocess.TimeoutExpired:
            return {"failure": f"no end within {limit} s"}
        if not answer.is_file():
            lines = done.stderr.strip().splitlines()
            return {"failure": f"internal error: {lines[-1] if lines else done.returncode}"}
        return json.loads(answer.read_text()) | {"seconds": round(time.monotonic() - start)}


def network_of(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of `quantize` for a zoo's entry, in the folder of its repository."""
    return {
        "model": entry["model"],
        "weights": Path("model_zoo") / entry["weights"],
        "model_args": entry.get("args", {}),
        "input_range": (0.0, float(entry.get("white", 1))),
    }
