import importlib
import json
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from helpers import networks
from helpers.sweeping import Sweep

from srptq_plugin.pipeline import quantize
from srptq_plugin.runs.run import SUMMARY


@pytest.fixture(scope="session", autouse=True)
def imported() -> None:
    """Import early the modules that torch imports late. An import interrupted by a case would stay half done."""
    importlib.import_module("torch._dynamo")


@pytest.fixture
def sweep(monkeypatch: pytest.MonkeyPatch) -> Iterator[Sweep]:
    """Yield a working folder for one case."""
    with TemporaryDirectory() as folder, monkeypatch.context() as patch:
        yield Sweep(Path(folder), patch)


Runs = Callable[[str], Path]


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Return a function that makes the run folder of a toy network for a target, once. Cases must not change it."""
    pytest.importorskip("torchao")
    folder = tmp_path_factory.mktemp("runs")

    @cache
    def make(target: str) -> Path:
        recipe = networks.recipe(8, target, calibration={"patches": 2, "size": 12})
        run = quantize(recipe, model=networks.network("shared"), out=folder / target, device="cpu").folder
        _forget_times(run / SUMMARY)
        return run

    return make


def _forget_times(path: Path) -> None:
    """Replace every measured time by 1, so that a case damages the same byte in every run of the tests."""
    summary = json.loads(path.read_text(encoding="utf-8"))
    summary["seconds"] = dict.fromkeys(summary["seconds"], 1.0)
    summary["verify"]["speedup"] = summary["verify"]["speedup"] and 1.0
    path.write_text(json.dumps(summary, indent=1), encoding="utf-8")
