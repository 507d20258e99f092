"""Networks of other shapes, from end to end: Y, images of the same size, odd multiples, shifted windows."""

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.photographs import pixels, save
from helpers.shaped_networks import Denoiser, Luma, Shifted, Windows
from helpers.small_runs import small
from torch import nn

from srptq_plugin.analysis.analyze import analyze
from srptq_plugin.analysis.subject import Subject
from srptq_plugin.costs.estimate import Estimate
from srptq_plugin.data.images import downscale, to_tensor
from srptq_plugin.data.metrics import luma, psnr
from srptq_plugin.errors import SrptqError
from srptq_plugin.evaluation.evaluate import evaluate
from srptq_plugin.evaluation.pairs import load_pairs
from srptq_plugin.graph import export
from srptq_plugin.pipeline import quantize
from srptq_plugin.qat.train_run import train_run
from srptq_plugin.runs.run import Run

pytest.importorskip("torchao")
pytest.importorskip("onnxruntime")


def quantized(model: nn.Module, folder: Path, **keys: object) -> Run:
    torch.manual_seed(0)
    run = quantize(small("onnxruntime"), model=model.eval(), out=folder / "run", **keys)  # pyright: ignore[reportArgumentType]
    report = run.summary["verify"]
    assert report["passed"], report["problems"]
    assert report["convs_int8"] == report["convs_planned"] > 0
    return run


def pairs(folder: Path, scale: int, noise: float = 0) -> Path:
    """Write two pairs, in folders `HR` and `LR_x{scale}`, whose small images are noisy."""
    rng = np.random.default_rng(0)
    for n, (height, width) in enumerate(((40, 52), (36, 44))):
        high = pixels(height, width, seed=n)
        low = downscale(high, scale) + rng.normal(0, noise, (height // scale, width // scale, 3))
        save(high, folder / "HR" / f"{n}.png")
        save(low.clip(0, 255).astype(np.uint8), folder / f"LR_x{scale}" / f"{n}.png")
    return folder


def test_a_network_of_y_runs_end_to_end(tmp_path: Path) -> None:
    run = quantized(Luma(), tmp_path)
    assert (run.record.channels, run.scale) == (1, 2)
    assert Subject.of_run(run).patches.shape[1:] == (1, 24, 24)
    assert Estimate.of_run(run).costs.input_size == (1, 1, 360, 640)
    folder = pairs(tmp_path / "Toys", 2)
    scores = {(score.image, score.output): score for score in evaluate(run, folder).scores}
    assert {output for _, output in scores} == {"float", "simulated", "runtime", "bicubic"}
    pair = load_pairs(folder, 2).usable[0]
    y = torch.from_numpy(luma(pair.low.pixels) / 255).float()[None, None].numpy()
    output = np.round(255 * run.float()(y)[0, 0, 2:-2, 2:-2].astype(np.float64))
    expected = psnr(output, luma(pair.high.pixels)[2:-2, 2:-2], 255)
    assert scores["0.png", "float"].psnr == pytest.approx(expected, abs=1e-6)
    assert analyze(Subject.of_run(run, patches=1), [pair], ("stage",)).float.psnr_y == pytest.approx(expected, abs=1e-4)


def test_a_network_of_y_is_trained(tmp_path: Path) -> None:
    run = quantized(Luma(), tmp_path)
    settings = ["training.steps=2", "training.every=1", "training.patch=12", "training.batch=2"]
    for images in (pairs(tmp_path / "Toys", 2), tmp_path / "Toys" / "LR_x2"):
        trained = train_run(
            run.recipe, run.folder, images=images, out=tmp_path / images.name / "out", overrides=settings
        )
        assert trained.record == run.record
        assert trained.summary["training"]["psnr"] >= trained.summary["training"]["psnr_before"]


def test_y_has_an_input_size_of_one_channel(tmp_path: Path) -> None:
    run = quantized(Luma(), tmp_path, input_size=(1, 1, 20, 28))
    assert run.input_size == (1, 1, 20, 28)
    assert evaluate(run, pairs(tmp_path / "Toys", 2)).scores
    with pytest.raises(SrptqError, match=r"input of \[1, 3, 20, 28\] failed .* to have 1 channels"):
        quantized(Luma(), tmp_path / "other", input_size=(1, 3, 20, 28))


@pytest.mark.parametrize(("model", "size"), [(Luma(), "1x1x320x512"), (Windows(7), "1x3x322x518")])
def test_commands_name_a_size_the_network_takes(model: nn.Module, size: str, tmp_path: Path) -> None:
    run = quantize(small("tensorrt"), model=model.eval(), out=tmp_path / "run")
    assert f"--optShapes=input:{size} " in run.summary["command"]


@pytest.mark.parametrize("channels", [1, 3])
def test_a_network_that_keeps_the_size_is_evaluated(channels: int, tmp_path: Path) -> None:
    run = quantized(Denoiser(channels), tmp_path)
    assert (run.scale, run.record.channels) == (1, channels)
    means = {row["output"]: row["psnr"] for row in evaluate(run, pairs(tmp_path / "Toys", 1, noise=9)).means}
    assert 20 < means["bicubic"] < 40
    assert abs(means["runtime"] - means["float"]) < 1


@pytest.mark.parametrize("side", [7, 12])
def test_odd_multiples_are_padded(side: int, tmp_path: Path) -> None:
    run = quantized(Windows(side), tmp_path)
    assert run.record.multiple == side
    assert all(size["height"] % side == size["width"] % side == 0 for size in run.summary["verify"]["sizes"])
    assert len({score.output for score in evaluate(run, pairs(tmp_path / "Toys", 1)).scores}) == 4


def test_unshuffled_images_keep_their_exact_range(tmp_path: Path) -> None:
    conv = nn.Conv2d(27, 27, 3, padding=1)
    run = quantized(nn.Sequential(nn.PixelUnshuffle(3), conv, nn.PixelShuffle(3)), tmp_path)
    bounds = [run.table.qparams[site.name].bounds for site in run.table.plan.sites if site.role == "activation"]
    assert bounds[0].outermost == pytest.approx((0.0, 1.0))


def test_slow_traces_give_way_to_one_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "LIMIT", 1.0)
    network, image = Shifted().eval(), to_tensor(pixels(16, 24)[None], (0.0, 1.0))
    run = quantized(network, tmp_path, input_size=(1, 3, 16, 24))
    assert run.input_size == (1, 3, 16, 24)
    assert np.abs(run.float()(image.numpy()) - network(image).detach().numpy()).max() < 1e-4
    with pytest.raises(
        SrptqError, match=r"^tracing Shifted for any image size took more than .* s; `input_size`, with"
    ):
        quantized(Shifted(), tmp_path / "any")
