"""From a calibrated run to a trained one, from a folder and from the command line."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import networks
from helpers.command_line import captured, refused, returning
from helpers.photographs import pixels, save
from torch import Tensor, nn

from srptq_plugin.data.images import downscale
from srptq_plugin.errors import SrptqError
from srptq_plugin.graph.types import Size
from srptq_plugin.pipeline import quantize
from srptq_plugin.qat.train_run import HIGHEST_PSNR, train_run
from srptq_plugin.recipes.recipe import Recipe
from srptq_plugin.runs.run import Run

pytest.importorskip("torchao")
pytest.importorskip("onnxruntime")

CALIBRATION = {"patches": 4, "size": 16, "batch": 2}
TRAINING = {"steps": 6, "every": 2, "batch": 2, "patch": 16, "value_rate": 0.05, "bound_rate": 2e-3}


def recipe(**keys: Any) -> Recipe:
    return networks.recipe(4, "onnxruntime", **{"calibration": CALIBRATION, "training": TRAINING, **keys})


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Return a run of a toy network that upscales by 2, with tuned weights."""
    tuned = recipe(reconstruction={"name": "pac", "epochs": 2, "weights": "free"})
    return quantize(tuned, model=networks.network("edsr"), out=tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Write photographs, pairs, and low-resolution images alone. Return their folder."""
    for n in range(4):
        high = pixels(48, 60, seed=n)
        save(high, tmp_path / "photographs" / f"{n}.png")
        save(high, tmp_path / "pairs" / "HR" / f"{n}.png")
        save(downscale(high, 2), tmp_path / "pairs" / "LR_x2" / f"{n}.png")
        save(downscale(high, 2), tmp_path / "low" / f"{n}.png")
    return tmp_path


def trained(run: Run, images: Path, out: str = "trained", **options: Any) -> Run:
    return train_run(options.pop("recipe", recipe()), run.folder, images=images, out=images.parent / out, **options)


def interrupt(what: str, done: int, _total: int) -> None:
    """Stop a training after three steps, as a user does."""
    if (what, done) == ("training", 3):
        raise KeyboardInterrupt


def test_training_starts_from_the_run_and_improves(run: Run, images: Path) -> None:
    finished = trained(run, images / "low")
    summary = finished.summary["training"]
    log = [json.loads(line) for line in (finished.folder / "training.jsonl").read_text().splitlines()]
    assert [record["step"] for record in log] == [0, 2, 4, 6]
    assert summary["psnr_before"] == log[0]["psnr"]
    assert summary["psnr"] == max(record["psnr"] for record in log) >= summary["psnr_before"]
    assert finished.summary["verify"]["passed"]
    assert not (images / "trained.training").exists()
    assert finished.artifacts
    assert (finished.folder / "model.onnx").read_bytes() == (run.folder / "model.onnx").read_bytes()


def test_before_the_first_step_nothing_changes(run: Run, images: Path) -> None:
    still = {**TRAINING, "steps": 1, "value_rate": 0.0, "bound_rate": 0.0}
    finished = trained(run, images / "low", recipe=recipe(training=still))
    image = networks.images(1, seed=9).numpy()
    assert finished.simulation()(image) == pytest.approx(run.simulation()(image), abs=1e-6)


def test_pairs_and_photographs_teach_the_same(run: Run, images: Path) -> None:
    paired, alone = trained(run, images / "pairs", "a"), trained(run, images / "photographs", "b", scale=2)
    assert paired.table.weights.keys() == alone.table.weights.keys()
    assert all(torch.equal(paired.table.weights[name], alone.table.weights[name]) for name in alone.table.weights)
    without = trained(run, images / "low", "c")
    assert not all(torch.equal(paired.table.weights[name], without.table.weights[name]) for name in alone.table.weights)


def test_an_interrupted_run_resumes_to_the_same_file(run: Run, images: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole = trained(run, images / "low", "whole")
    with pytest.raises(KeyboardInterrupt):
        trained(run, images / "low", "parts", progress=interrupt)
    assert "parts.training holds what was trained: continue with `resume=True`" in caplog.text
    with pytest.raises(SrptqError, match="holds an interrupted training; continue with `resume=True`"):
        trained(run, images / "low", "parts")
    parts = trained(run, images / "low", "parts", resume=True)
    table = "quant_table.safetensors"
    assert (parts.folder / table).read_bytes() == (whole.folder / table).read_bytes()
    assert (parts.folder / "training.jsonl").read_text() == (whole.folder / "training.jsonl").read_text()


def test_images_that_are_equal_have_a_finite_record(run: Run, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("srptq_plugin.qat.train_run.mean_scores", returning((math.inf, 1.0)))
    assert trained(run, images / "low").summary["training"]["psnr"] == HIGHEST_PSNR


@pytest.mark.parametrize("what", ["recipe", "run", "set of images"])
def test_what_began_otherwise_is_not_resumed(run: Run, images: Path, what: str) -> None:
    begun = run
    if what == "run":
        begun = quantize(recipe(), model=networks.network("edsr"), out=images / "another")
    with pytest.raises(KeyboardInterrupt):
        trained(begun, images / "low", "parts", progress=interrupt)
    if what == "set of images":
        save(pixels(30, 24, seed=9), images / "low" / "0.png")
    chosen = recipe(training={**TRAINING, "seed": 1}) if what == "recipe" else recipe()
    with pytest.raises(SrptqError, match=f"checkpoint.pt: begun with another {what}; resume with what it was begun"):
        trained(run, images / "low", "parts", resume=True, recipe=chosen)


def test_the_other_toolkit_trains_the_same_run(run: Run, images: Path) -> None:
    pytest.importorskip("mqbench")
    one, other = trained(run, images / "low", "a"), trained(run, images / "low", "b", toolkit="mqbench")
    assert one.summary["training"]["psnr"] == pytest.approx(other.summary["training"]["psnr"], abs=0.3)


@pytest.mark.parametrize("paired", [False, True])
def test_patches_fit_a_network_of_even_sizes(images: Path, *, paired: bool) -> None:
    layers = [nn.PixelUnshuffle(2), networks.conv(12, 12), nn.ReLU(), networks.conv(12, 48), nn.PixelShuffle(4)]
    start = quantize(recipe(), model=nn.Sequential(*layers), out=images / "even")
    odd = recipe(training={**TRAINING, "patch": 15})
    for n in range(4):
        save(pixels(50, 58, seed=n), images / "pairs" / "HR" / f"{n}.png")
        save(downscale(pixels(50, 58, seed=n), 2), images / "pairs" / "LR_x2" / f"{n}.png")
        save(downscale(pixels(50, 58, seed=n), 2), images / "low" / f"{n}.png")
    finished = trained(start, images / ("pairs" if paired else "low"), recipe=odd)
    assert finished.summary["training"]["psnr"] >= finished.summary["training"]["psnr_before"]


@pytest.mark.parametrize(("size", "refused"), [((1, 3, 16, 16), False), ((1, 3, 16, 20), True)])
def test_patches_fit_a_network_of_one_size(size: Size, images: Path, *, refused: bool) -> None:
    class Mapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head, self.tail, self.map = (
                networks.conv(3, 6),
                networks.conv(6, 3),
                nn.Buffer(torch.rand(1, 6, *size[2:])),
            )

        def forward(self, x: Tensor) -> Tensor:
            return self.tail((self.head(x) + self.map).relu())

    start = quantize(recipe(), model=Mapped(), out=images / "fixed", input_size=size)
    if refused:
        with pytest.raises(
            SrptqError, match="images of 16 x 20 only, and training turns patches; quantize with a square"
        ):
            trained(start, images / "low")
    else:
        finished = trained(start, images / "low")
        assert finished.summary["training"]["psnr"] >= finished.summary["training"]["psnr_before"]


def test_mistakes_are_refused(run: Run, images: Path, tmp_path: Path) -> None:
    with pytest.raises(SrptqError, match=r"resume: no .*checkpoint\.pt; train without it first"):
        trained(run, images / "low", "never", resume=True)
    with pytest.raises(SrptqError, match=r"0\.png: 30x24 pixels .* at most 24"):
        trained(run, images / "low", recipe=recipe(training={**TRAINING, "patch": 32}))
    with pytest.raises(SrptqError, match=r"scale 4: the network .* upscales by 2"):
        trained(run, images / "photographs", scale=4)
    save(pixels(40, 40), tmp_path / "one" / "0.png")
    with pytest.raises(SrptqError, match="one image; give more"):
        trained(run, tmp_path / "one")


def test_sites_unknown_to_the_run_are_named(images: Path) -> None:
    few = recipe(stages={"body": {"quantize": False}})
    start = quantize(few, model=networks.network("edsr"), out=images / "few")
    with pytest.raises(SrptqError, match=r"has no bounds for .*; quantize with this recipe first"):
        trained(start, images / "low")


def test_the_command_line_trains_and_refuses(run: Run, images: Path) -> None:
    saved = images / "mine.yaml"
    saved.write_text(recipe().to_yaml())
    out = images / "out"
    result = captured("train", saved, "--run", run.folder, "--images", images / "low", "--out", out, "--json")
    assert result.code == 0, result.err
    assert json.loads(result.out)["training"]["steps"] == 6
    result = captured("train", saved, "--run", run.folder, "--images", images / "low", "--out", images / "again")
    assert "trained: " in result.out
    refused(captured("train", saved, "--run", images / "nowhere", "--images", images / "low"), "no such run folder")
