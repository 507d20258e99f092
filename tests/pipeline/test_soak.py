"""Runs in one process leave nothing behind: no network, no file, no thread."""

import gc
from collections import Counter
from pathlib import Path

import pytest
from helpers import networks
from torch import nn

from srptq_plugin.pipeline import quantize
from srptq_plugin.quantization.quantizer import BoundedFakeQuantize

pytest.importorskip("torchao")
pytest.importorskip("onnxruntime")
CALIBRATION = {"patches": 2, "size": 12}
HELD = Path("/proc/self")


def held() -> Counter[str]:
    """Count our objects, networks and parameters, and the open files and threads of this process."""
    gc.collect()
    kinds = [type(held) for held in gc.get_objects()]
    counted = Counter(kind.__qualname__ for kind in kinds if str(kind.__module__).startswith("srptq_"))
    counted["parameters"] = sum(issubclass(kind, nn.Parameter) for kind in kinds)
    counted["quantizers"] = sum(issubclass(kind, BoundedFakeQuantize) for kind in kinds)
    for name in ("fd", "task"):
        counted[name] = sum(1 for _ in (HELD / name).iterdir()) if HELD.is_dir() else 0
    return counted


def test_runs_leave_nothing_behind(tmp_path: Path) -> None:
    recipe = networks.recipe(8, "onnxruntime", calibration=CALIBRATION, reconstruction={"name": "pac", "epochs": 1})

    def run() -> Counter[str]:
        layers = [networks.conv(3, 8), nn.ReLU(), networks.conv(8, 12), nn.PixelShuffle(2)]
        quantize(recipe, model=nn.Sequential(*layers), out=tmp_path / "run", device="cpu")
        return held()

    run()  # fills the caches of plugins and runtimes
    before = run()
    run()
    after = run()
    assert after - before == Counter()
