"""PSNR and SSIM against high-resolution images: whole, in tiles, in ensembles, and on Set5."""

import logging
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from helpers import networks
from helpers.command_line import raising
from helpers.photographs import pixels, save

from srptq_plugin.data.images import downscale, to_pixels, to_tensor
from srptq_plugin.data.metrics import psnr_y
from srptq_plugin.errors import MissingRuntimeError, SrptqError
from srptq_plugin.evaluation.ensemble import ensembled
from srptq_plugin.evaluation.evaluate import evaluate
from srptq_plugin.evaluation.scores import Evaluation
from srptq_plugin.evaluation.tiling import Tiling
from srptq_plugin.pipeline import quantize
from srptq_plugin.runs.run import Run

pytest.importorskip("torchao")
pytest.importorskip("onnxruntime")

CALIBRATION = {"patches": 2, "size": 12}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Quantize a twofold toy network for ONNX Runtime."""
    recipe = networks.recipe(8, "onnxruntime", calibration=CALIBRATION)
    return quantize(recipe, model=networks.network("bicubic"), out=tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Write two pairs, in folders `HR` and `LR_x2`."""
    for n, (height, width) in enumerate(((40, 52), (36, 44))):
        high = pixels(height, width, seed=n)
        save(high, tmp_path / "Toys" / "HR" / f"{n}.png")
        save(downscale(high, 2), tmp_path / "Toys" / "LR_x2" / f"{n}.png")
    return tmp_path / "Toys"


def psnrs(evaluation: Evaluation, output: str) -> list[float]:
    return [score.psnr for score in evaluation.scores if score.output == output]


def test_each_output_has_a_row(run: Run, pairs: Path) -> None:
    seen: list[str] = []
    rows = evaluate(run, pairs, progress=lambda what, _n, _all: seen.append(what)).means
    assert [row["output"] for row in rows] == ["float", "simulated", "runtime", "bicubic"]
    assert all(set(row) == {"data", "output", "psnr", "ssim", "images"} for row in rows)
    assert {(row["data"], row["images"]) for row in rows} == {("Toys", 2)}
    by_name = {row["output"]: row for row in rows}
    assert by_name["runtime"]["psnr"] == pytest.approx(by_name["simulated"]["psnr"], abs=0.05)
    assert by_name["simulated"]["psnr"] != by_name["float"]["psnr"]
    assert by_name["bicubic"]["psnr"] > 20
    assert set(seen) == {"evaluating"}


def test_photographs_alone_give_the_same_rows(run: Run, pairs: Path, tmp_path: Path) -> None:
    for n in (0, 1):
        high = np.asarray(PIL.Image.open(pairs / "HR" / f"{n}.png"))
        save(np.pad(high, ((0, 1), (0, n), (0, 0)), mode="edge"), tmp_path / "photographs" / f"{n}.png")
    with_low, alone = evaluate(run, pairs), evaluate(run, tmp_path / "photographs")
    for score, downscaled in zip(with_low.scores, alone.scores, strict=True):
        assert score.psnr == pytest.approx(downscaled.psnr, abs=1e-9)
        assert score.ssim == pytest.approx(downscaled.ssim, abs=1e-9)


def test_another_scale_is_refused(run: Run, pairs: Path) -> None:
    with pytest.raises(SrptqError, match=r"scale 4: the network of .* upscales by 2"):
        evaluate(run, pairs, scale=4)
    assert len(evaluate(run, pairs, scale=2).means) == 4


def test_images_too_small_to_score_are_refused(run: Run, tmp_path: Path) -> None:
    save(pixels(12, 12), tmp_path / "small" / "a.png")
    with pytest.raises(SrptqError, match="15x15 are needed"):
        evaluate(run, tmp_path / "small")


def test_misfit_image_is_left_out_and_counted(run: Run, pairs: Path) -> None:
    save(pixels(41, 52), pairs / "HR" / "0.png")
    evaluation = evaluate(run, pairs)
    assert {row["images"] for row in evaluation.means} == {1}
    assert {score.image for score in evaluation.scores} == {"1.png"}
    assert len(evaluation.skipped) == 1
    with pytest.raises(SrptqError, match=r"0\.png: \(41, 52\) is not 2 x \(20, 26\)"):
        evaluate(run, pairs, strict=True)


def test_mean_is_over_images(run: Run, pairs: Path) -> None:
    evaluation = evaluate(run, pairs)
    assert [score.image for score in evaluation.scores] == 4 * ["0.png", "1.png"]
    for row in evaluation.means:
        mine = [score for score in evaluation.scores if score.output == row["output"]]
        assert row["psnr"] == pytest.approx(np.mean([score.psnr for score in mine]))
        assert row["ssim"] == pytest.approx(np.mean([score.ssim for score in mine]))


def test_wide_overlap_leaves_float_scores_unchanged(run: Run, pairs: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole, tiles = evaluate(run, pairs), evaluate(run, pairs, tile=20, overlap=6)
    assert psnrs(tiles, "float") == pytest.approx(psnrs(whole, "float"), abs=1e-3)
    assert tiles.tiles is not None
    assert (tiles.tiles.split, tiles.tiles.padded) == (2, 0)
    assert tiles.tiles.seam is not None
    assert tiles.tiles.seam.image == "1.png"
    assert tiles.tiles.seam.levels < 1e-3
    assert not caplog.records


def test_visible_seam_is_warned_of(run: Run, pairs: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "srptq_plugin.evaluation.evaluate"):
        tiles = evaluate(run, pairs, tile=16, overlap=0).tiles
    assert tiles is not None
    assert tiles.seam is not None
    assert tiles.seam.levels > 0.5
    assert f"by up to {tiles.seam.levels:.1f} of 255 levels (1.png, float)" in caplog.text
    cured = evaluate(run, pairs, tile=16, overlap=tiles.seam.enough).tiles
    assert cured is not None
    assert cured.seam is not None
    assert not cured.seam.visible
    assert f"`overlap={tiles.seam.enough}` " in caplog.text


def test_small_images_have_no_seam(run: Run, pairs: Path) -> None:
    whole, tiles = evaluate(run, pairs), evaluate(run, pairs, tile=26)
    assert tiles.scores == whole.scores
    assert tiles.tiles is not None
    assert (tiles.tiles.split, tiles.tiles.padded, tiles.tiles.seam) == (0, 0, None)


def test_ensemble_covers_all_outputs_but_bicubic(run: Run, pairs: Path) -> None:
    once, ensemble = evaluate(run, pairs), evaluate(run, pairs, ensemble=True)
    assert ensemble.ensemble
    assert psnrs(ensemble, "bicubic") == psnrs(once, "bicubic")
    assert all(psnrs(ensemble, name) != psnrs(once, name) for name in ("float", "simulated", "runtime"))
    low, high = (np.asarray(PIL.Image.open(pairs / folder / "0.png")) for folder in ("LR_x2", "HR"))
    mean = ensembled(run.float())(to_tensor(low[None], run.input_range).numpy())
    expected = psnr_y(to_pixels(torch.from_numpy(mean[0]), run.input_range), high, 2)
    assert psnrs(ensemble, "float")[0] == pytest.approx(expected)


@pytest.fixture(scope="module")
def fixed(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Quantize a network for images of 20 x 24 only."""
    recipe = networks.recipe(8, "onnxruntime", calibration=CALIBRATION)
    out = tmp_path_factory.mktemp("runs") / "fixed"
    return quantize(recipe, model=networks.network("shared"), out=out, input_size=(1, 3, 20, 24))


def test_fixed_size_runs_in_tiles(fixed: Run, pairs: Path) -> None:
    save(pixels(32, 60), pairs / "HR" / "wide.png")
    save(downscale(pixels(32, 60), 2), pairs / "LR_x2" / "wide.png")
    evaluation = evaluate(fixed, pairs)
    assert [row["output"] for row in evaluation.means] == ["float", "simulated", "runtime", "bicubic"]
    assert psnrs(evaluation, "runtime") == pytest.approx(psnrs(evaluation, "simulated"), abs=0.05)
    assert evaluation.tiles is not None
    assert evaluation.tiles.tiling == Tiling(20, 24, 5, fixed=True)
    assert (evaluation.tiles.split, evaluation.tiles.padded) == (2, 2)
    assert evaluation.tiles.seam is not None
    assert evaluation.tiles.seam.image == "0.png"


def test_fixed_size_refuses_tiles_and_ensembles(fixed: Run, pairs: Path) -> None:
    with pytest.raises(SrptqError, match="tile 20: the file takes images of 20 x 24 only"):
        evaluate(fixed, pairs, tile=20)
    with pytest.raises(SrptqError, match=r"ensemble: the file of .*fixed takes images of 20 x 24 only.* square"):
        evaluate(fixed, pairs, ensemble=True)


def test_missing_runtime_is_left_out_with_a_warning(
    run: Run, pairs: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(
        type(run.target), "load", raising(MissingRuntimeError("onnxruntime", "pip install onnxruntime"))
    )
    with caplog.at_level(logging.WARNING, "srptq_plugin.evaluation.evaluate"):
        evaluation = evaluate(run, pairs)
    assert [row["output"] for row in evaluation.means] == ["float", "simulated", "bicubic"]
    assert "the runtime is left out: onnxruntime is not installed" in caplog.text


def test_run_without_artifacts_has_no_runtime(pairs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    recipe = networks.recipe(4, "paper", calibration=CALIBRATION)
    paper = quantize(recipe, model=networks.network("shared"), out=tmp_path / "run")
    rows = evaluate(paper, pairs).means
    assert [row["output"] for row in rows] == ["float", "simulated", "bicubic"]
    assert "left out" not in caplog.text


def test_bundled_network_on_set5(data: Path, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    overrides = ["calibration.patches=20", "calibration.size=32"]
    quantized = quantize("openvino-w8a8-fast", overrides=overrides, out=tmp_path / "run")
    rows = {row["output"]: row for row in evaluate(quantized, data / "Set5", scale=4).means}
    assert rows["float"]["psnr"] == pytest.approx(31.419, abs=0.01)
    assert rows["bicubic"]["psnr"] == pytest.approx(28.432, abs=0.01)
    assert rows["simulated"]["psnr"] > 31.2
    assert rows["runtime"]["psnr"] == pytest.approx(rows["simulated"]["psnr"], abs=0.02)
    assert rows["bicubic"]["ssim"] < rows["runtime"]["ssim"] < rows["float"]["ssim"] + 0.001
    assert {(row["data"], row["images"]) for row in rows.values()} == {("Set5", 5)}
