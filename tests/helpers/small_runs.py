"""Small recipes for runs of a second, and checks that runs of any kind share."""

import json
from pathlib import Path
from typing import Any

import pytest

from helpers import networks
from srptq_plugin.recipes.recipe import Recipe

CALIBRATION = {"patches": 4, "size": 24, "batch": 2}


def small(target: str, bits: int = 8, **keys: Any) -> Recipe:
    """Build a recipe for a target that calibrates on a few small patches."""
    return networks.recipe(bits, target, **{"calibration": CALIBRATION, **keys})


def require_runtime(target: str) -> None:
    """Skip the test if the runtime that executes or reads the target's files is not installed."""
    if target != "paper":
        own = {"litert": "ai_edge_litert"} | {name: name for name in ("openvino", "ncnn", "executorch")}
        pytest.importorskip(own.get(target, "onnxruntime"))


def read_strict(path: Path) -> dict[str, Any]:
    """Read JSON as the standard has it, without NaN and Infinity."""

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} in {path}")

    return json.loads(path.read_text(), parse_constant=refuse)
