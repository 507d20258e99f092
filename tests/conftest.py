import functools
import importlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from helpers.descents import descents
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).resolve().parents[1]
settings.register_profile("srptq", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("srptq"), derandomize=True)
settings.load_profile("srptq")
torch.set_num_threads(1)
WORKER = os.environ.get("PYTEST_XDIST_WORKER", "")
if WORKER and hasattr(os, "sched_setaffinity"):  # one core per worker: runtimes start as many threads as they see cores
    CORES = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {CORES[int(WORKER.removeprefix("gw")) % len(CORES)]})
SLOW = frozenset((ROOT / "tests" / "slow.txt").read_text(encoding="utf-8").split())


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests and files in slow.txt before `-m` selects, and move them to the front."""
    for item in items:
        test = item.nodeid.partition("[")[0]
        if SLOW & {test, test.partition("::")[0]}:
            item.add_marker(pytest.mark.slow)
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture(scope="session", autouse=True)
def short_timing() -> Iterator[None]:
    """Measure speed once and on a small image, since no test looks at it."""
    module = importlib.import_module("srptq_plugin.runs.verify")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "TIMED_SIZE", (24, 24))
        patch.setattr(module, "TIMED_RUNS", 1)
        yield


@pytest.fixture(scope="session", autouse=True)
def short_descents() -> Iterator[None]:
    """Take a tenth of the steps in rotating and equalizing, except in the tests that ask for `whole_descents`."""
    with descents(10):
        yield


@pytest.fixture
def whole_descents() -> Iterator[None]:
    """Take all steps in rotating and equalizing."""
    with descents(1):
        yield


@pytest.fixture(scope="session", autouse=True)
def one_table_of_operators() -> Iterator[None]:
    """Let torch build its table of ONNX operators once, and not for every file."""
    table = importlib.import_module("torch.onnx._internal.exporter._registration").ONNXRegistry
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(table, "from_torchlib", staticmethod(functools.cache(table.from_torchlib)))
        yield


@pytest.fixture(scope="session")
def data() -> Path:
    """Return the folder of benchmark images and weights. Skip the test if it is absent."""
    folder = Path(os.environ.get("SRPTQ_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no benchmark data at {folder}; set SRPTQ_DATA")
    return folder


@pytest.fixture
def root(monkeypatch: pytest.MonkeyPatch) -> Path:
    """Change to the repository's folder and return it."""
    monkeypatch.chdir(ROOT)
    return ROOT
