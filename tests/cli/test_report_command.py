import json
from pathlib import Path

import pytest
from helpers import networks
from helpers.command_line import Srptq, refused
from helpers.photographs import pixels, save
from helpers.small_runs import small

from srptq_plugin.evaluation.evaluate import evaluate
from srptq_plugin.pipeline import quantize
from srptq_plugin.runs.run import Run

pytest.importorskip("torchao")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    """Quantize networks of two scales for simulation."""
    folder = tmp_path_factory.mktemp("runs")
    save(pixels(30, 34), folder / "lr" / "a.png")
    models = {"two": networks.network("bicubic"), "one": networks.conv(3, 3).eval()}
    for name, model in models.items():
        quantize(small("paper", 4), model=model, images=folder / "lr", out=folder / name, device="cpu")
    return [Run.open(folder / name) for name in models]


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Write a high-resolution image."""
    save(pixels(40, 48), tmp_path / "Toys" / "a.png")
    return tmp_path / "Toys"


def test_a_report_is_written_into_the_run(srptq: Srptq, runs: list[Run], photographs: Path) -> None:
    result = srptq("report", runs[0].folder, "--data", photographs, "--json")
    assert result.code == 0, result.err
    answer = json.loads(result.out)
    assert answer["file"] == str(runs[0].folder / "report.html")
    assert Path(answer["file"]).read_text(encoding="utf-8").startswith("<!doctype html>")
    assert answer["runs"][0]["scores"] == json.loads(json.dumps(evaluate(runs[0], photographs, device="cpu").record()))
    assert answer["runs"][0]["divergence"] is None
    assert answer["crops"][0]["image"] == "a.png"


def test_the_screen_says_what_was_measured(srptq: Srptq, runs: list[Run], photographs: Path, tmp_path: Path) -> None:
    result = srptq("report", runs[0].folder, "--data", photographs, "--out", tmp_path / "page.html", "--crops", "1")
    assert result.code == 0, result.err
    assert "parting: not compared: nothing was exported" in result.out
    assert f"file: {tmp_path / 'page.html'}" in result.out
    mean = next(row for row in evaluate(runs[0], photographs, device="cpu").means if row["output"] == "simulated")
    assert f"simulated: {mean['psnr']:.2f} dB, SSIM {mean['ssim']:.4f}" in result.out


def test_runs_of_two_scales_are_refused(srptq: Srptq, runs: list[Run]) -> None:
    refused(srptq("report", *(run.folder for run in runs)), "upscale by [1, 2]", "apart")


def test_mistakes_are_refused_before_measuring(srptq: Srptq, runs: list[Run], tmp_path: Path) -> None:
    refused(srptq("report", tmp_path / "absent"), "no such run folder")
    refused(srptq("report", runs[0].folder, runs[0].folder), "given twice")
    refused(srptq("report", runs[0].folder, "--out", tmp_path), "--out")
    refused(srptq("report", runs[0].folder, "--crops", "0"), "--crops")
    refused(srptq("report", runs[0].folder, "--data", tmp_path / "absent"), "absent")
    assert not (tmp_path / "report.html").exists()
