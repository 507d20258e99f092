"""PSNR and SSIM against high-resolution images: the layouts of folders, and figures that are known."""

import importlib
import logging
from pathlib import Path
from typing import Any

import networks
import numpy as np
import PIL.Image
import pytest

from srptq_plugin.errors import SrptqError
from srptq_plugin.evaluate import evaluate, load_pairs
from srptq_plugin.images import downscale
from srptq_plugin.pipeline import quantize
from srptq_plugin.run import Run

pytest.importorskip("torchao")
pytest.importorskip("onnxruntime")

CALIBRATION = {"patches": 2, "size": 12}


def pixels(height: int, width: int, seed: int = 0) -> np.ndarray[Any, np.dtype[np.uint8]]:
    image = networks.images(1, height, width, seed=seed)[0]
    return (255 * image).round().byte().movedim(0, -1).numpy()


def save(image: np.ndarray[Any, np.dtype[np.uint8]], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(image).save(path)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A toy network that enlarges twofold, quantized for ONNX Runtime."""
    recipe = networks.recipe(8, "onnxruntime", calibration=CALIBRATION)
    return quantize(recipe, model=networks.network("bicubic"), out=tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Two pairs, in folders `HR` and `LR_x2`."""
    for n, (height, width) in enumerate(((40, 52), (36, 44))):
        high = pixels(height, width, seed=n)
        save(high, tmp_path / "Toys" / "HR" / f"{n}.png")
        save(downscale(high, 2), tmp_path / "Toys" / "LR_x2" / f"{n}.png")
    return tmp_path / "Toys"


def test_a_row_for_each_output(run: Run, pairs: Path) -> None:
    seen: list[str] = []
    rows = evaluate(run, pairs, progress=lambda what, _n, _all: seen.append(what))
    assert [row["output"] for row in rows] == ["float", "simulated", "runtime", "bicubic"]
    assert all(set(row) == {"data", "output", "psnr", "ssim", "images"} for row in rows)
    assert {(row["data"], row["images"]) for row in rows} == {("Toys", 2)}
    by_name = {row["output"]: row for row in rows}
    assert by_name["runtime"]["psnr"] == pytest.approx(by_name["simulated"]["psnr"], abs=0.05)
    assert by_name["simulated"]["psnr"] != by_name["float"]["psnr"]
    assert by_name["bicubic"]["psnr"] > 20
    assert seen[-1] == "evaluating"
    assert {f"evaluating {name}" for name in by_name} <= set(seen)


def test_photographs_alone_are_made_smaller_and_give_the_same_rows(run: Run, pairs: Path, tmp_path: Path) -> None:
    for n in (0, 1):
        high = np.asarray(PIL.Image.open(pairs / "HR" / f"{n}.png"))
        save(np.pad(high, ((0, 1), (0, n), (0, 0)), mode="edge"), tmp_path / "photographs" / f"{n}.png")
    with_low, alone = evaluate(run, pairs), evaluate(run, tmp_path / "photographs")
    for one, other in zip(with_low, alone, strict=True):
        assert one["psnr"] == pytest.approx(other["psnr"], abs=1e-9)
        assert one["ssim"] == pytest.approx(other["ssim"], abs=1e-9)


def test_high_resolution_images_of_each_scale_go_before_others(pairs: Path) -> None:
    (pairs / "HR").rename(pairs / "HR_x2")
    save(pixels(80, 80), pairs / "HR" / "other.png")
    assert [pair.high.pixels.shape for pair in load_pairs(pairs, 2)] == [(40, 52, 3), (36, 44, 3)]


def test_a_folder_with_only_high_resolution_images_in_it(pairs: Path) -> None:
    found = load_pairs(pairs, 4)
    assert [pair.low.pixels.shape for pair in found] == [(10, 13, 3), (9, 11, 3)]
    assert [pair.high.pixels.shape for pair in found] == [(40, 52, 3), (36, 44, 3)]


def test_sizes_that_do_not_match_name_the_file(run: Run, pairs: Path) -> None:
    save(pixels(41, 52), pairs / "HR" / "0.png")
    with pytest.raises(SrptqError, match=r"0\.png: \(41, 52\) is not 2 x \(20, 26\)"):
        evaluate(run, pairs)


def test_names_that_do_not_match_are_told(run: Run, pairs: Path) -> None:
    (pairs / "HR" / "1.png").rename(pairs / "HR" / "one.png")
    with pytest.raises(SrptqError, match=r"HR: no 1\.png, which the low-resolution folder has; name both alike"):
        evaluate(run, pairs)


@pytest.mark.parametrize("missing", ["nowhere", "empty"])
def test_a_folder_without_images_is_refused(missing: str, run: Run, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(SrptqError, match=missing):
        evaluate(run, tmp_path / missing)


def test_another_scale_than_the_networks_is_refused(run: Run, pairs: Path) -> None:
    with pytest.raises(SrptqError, match=r"--scale 4: the network of .* upscales by 2"):
        evaluate(run, pairs, scale=4)
    assert len(evaluate(run, pairs, scale=2)) == 4


def test_images_too_small_to_score_are_refused(run: Run, tmp_path: Path) -> None:
    save(pixels(12, 12), tmp_path / "small" / "a.png")
    with pytest.raises(SrptqError, match="11x11 are needed"):
        evaluate(run, tmp_path / "small")


def test_a_file_of_one_size_leaves_the_runtime_out_with_a_warning(
    pairs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = networks.recipe(8, "onnxruntime", calibration=CALIBRATION)
    fixed = quantize(recipe, model=networks.network("shared"), out=tmp_path / "run", input_size=(1, 3, 12, 16))
    with caplog.at_level(logging.WARNING, "srptq_plugin.evaluate"):
        rows = evaluate(fixed, pairs)
    assert [row["output"] for row in rows] == ["float", "simulated", "bicubic"]
    assert "the runtime is left out: the file takes images of 12 x 16 only" in caplog.text


def test_a_run_without_artefacts_has_no_runtime_and_no_warning(
    pairs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = networks.recipe(4, "paper", calibration=CALIBRATION)
    paper = quantize(recipe, model=networks.network("shared"), out=tmp_path / "run")
    rows = evaluate(paper, pairs)
    assert [row["output"] for row in rows] == ["float", "simulated", "bicubic"]
    assert "left out" not in caplog.text


def test_the_bundled_network_on_set5(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openvino")
    monkeypatch.setattr(importlib.import_module("srptq_plugin.verify"), "TIMED_SIZE", (24, 24))
    overrides = ["calibration.patches=20", "calibration.size=32"]
    found = quantize("openvino-w8a8-fast", overrides=overrides, out=tmp_path / "run")
    rows = {row["output"]: row for row in evaluate(found, data / "Set5", scale=4)}
    assert rows["float"]["psnr"] == pytest.approx(31.38, abs=0.01)
    assert rows["bicubic"]["psnr"] == pytest.approx(28.432, abs=0.01)
    assert rows["simulated"]["psnr"] > 31.2
    assert rows["runtime"]["psnr"] == pytest.approx(rows["simulated"]["psnr"], abs=0.02)
    assert rows["bicubic"]["ssim"] < rows["runtime"]["ssim"] < rows["float"]["ssim"] + 0.001
    assert {(row["data"], row["images"]) for row in rows.values()} == {("Set5", 5)}
