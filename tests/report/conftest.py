from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from helpers import networks
from helpers.pages import Element, read_page
from helpers.photographs import pixels, save
from helpers.small_runs import require_runtime, small

from srptq_plugin.cli import main
from srptq_plugin.pipeline import quantize
from srptq_plugin.report.page import render
from srptq_plugin.report.report import Report, measure
from srptq_plugin.runs.run import Run

Page = Callable[[str, int], Element]
"""Returns the page with scores against originals or float, of one run or two."""


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    """Quantize a toy network twice: for ONNX Runtime, analyzed, and for simulation in 4 bits."""
    pytest.importorskip("torchao")
    require_runtime("onnxruntime")
    folder, network = tmp_path_factory.mktemp("reports"), networks.network("bicubic")
    for n in range(2):
        save(pixels(30 + n, 34, seed=n + 7), folder / "lr" / f"{n}.png")
    for name, recipe in (("eight", small("onnxruntime", reconstruction=None)), ("four", small("paper", 4))):
        quantize(recipe, model=network, images=folder / "lr", out=folder / name, device="cpu")
    assert main(["analyze", str(folder / "eight"), "--patches", "1", "--device", "cpu"]) == 0
    return [Run.open(folder / "eight"), Run.open(folder / "four")]


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write three high-resolution images. The last one is too small to score."""
    folder = tmp_path_factory.mktemp("data") / "Toys"
    for n, sides in enumerate(((40, 52), (36, 44), (8, 8))):
        save(pixels(*sides, seed=n), folder / f"{n}&.png")
    return folder


@pytest.fixture(scope="session")
def report(runs: list[Run], photographs: Path) -> Callable[[str, int], Report]:
    """Return a function that measures runs, each way once."""

    @cache
    def measured(reference: str, count: int) -> Report:
        return measure(runs[:count], data=photographs if reference == "original" else None, crops=2, device="cpu")

    return measured


@pytest.fixture(scope="session")
def page(report: Callable[[str, int], Report]) -> Page:
    """Return a function that renders reports, each once."""

    @cache
    def rendered(reference: str, count: int) -> Element:
        return read_page(render(report(reference, count)))

    return rendered
