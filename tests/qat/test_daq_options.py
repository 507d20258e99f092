"""The options of DAQ's quantizers and of the linear one: granularity, the share p and the gap m of mixed precision."""

import json
import re
from functools import partial
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
import torch
from helpers import networks
from helpers.photographs import pixels, save
from torch import Tensor
from torch.nn import Module

from srptq_plugin.cli import main
from srptq_plugin.costs.estimate import Estimate
from srptq_plugin.data.images import to_tensor
from srptq_plugin.errors import SrptqError
from srptq_plugin.pipeline import quantize
from srptq_plugin.planning.plan import Edge
from srptq_plugin.qat.daq import DaqFakeQuantize, MixedDaqFakeQuantize, gaussian_step
from srptq_plugin.qat.dynamic import LinearFakeQuantize
from srptq_plugin.quantization.grid import Bounds, IntGrid
from srptq_plugin.recipes.recipe import Recipe
from srptq_plugin.runs.run import Run

REAL = IntGrid(2, float_zero_point=True)
BOUNDS = Bounds.of(-3.0, 3.0)


def maps() -> Tensor:
    """Draw two images whose four channels differ in range."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 4, 6, 5, generator=generator) * torch.tensor([0.1, 1.0, 3.0, 10.0]).reshape(1, 4, 1, 1)


def quantizer(kind: type[DaqFakeQuantize] | type[LinearFakeQuantize], **options: Any) -> Any:
    return kind("x", REAL, bounds=BOUNDS, options=options)


def transcribed(values: Tensor) -> Tensor:
    """Round one set of values by equations 2 to 5, at two bits."""
    mean, deviation, step = values.mean(), values.std(correction=0), gaussian_step(2)
    standard = ((values - mean) / deviation).clamp(-1.5 * step, 1.5 * step)
    return ((standard / step + 0.5).round() - 0.5) * step * deviation + mean


@pytest.mark.parametrize("granularity", ["layer", "channel"])
def test_daq_standardizes_layers_or_channels(granularity: str) -> None:
    values = maps()
    rounded = quantizer(DaqFakeQuantize, granularity=granularity).quantize_images(values)
    for image, expected in zip(values, rounded, strict=True):
        parts = [image] if granularity == "layer" else list(image)
        assert torch.allclose(torch.stack([transcribed(part) for part in parts]).reshape(image.shape), expected)


@pytest.mark.parametrize("granularity", ["layer", "channel"])
def test_linear_ranges_span_layers_or_channels(granularity: str) -> None:
    values = maps()
    rounded = quantizer(LinearFakeQuantize, granularity=granularity).quantize_images(values)
    for image, levels in zip(values, rounded, strict=True):
        parts = [(image, levels)] if granularity == "layer" else zip(image, levels, strict=True)
        for part, level in parts:
            assert level.min().item() == pytest.approx(part.min().item(), rel=1e-5)
            assert level.max().item() == pytest.approx(part.max().item(), rel=1e-5)
            assert len(level.unique()) <= 4


@pytest.mark.parametrize(("share", "others"), [(0.1, 10), (0.2, 20), (0.5, 50)])
def test_share_is_of_lognormal_channels(share: float, others: int) -> None:
    """Place the logarithms of 100 deviations at the quantiles of a normal distribution."""
    ranks = (torch.arange(100, dtype=torch.float64) + 0.5) / 100
    deviation = torch.special.ndtri(ranks).exp().reshape(1, 100, 1, 1)
    bits = MixedDaqFakeQuantize("x", IntGrid(4), options={"share": share}).choose_bits(deviation).flatten()
    assert abs(int((bits != 4).sum()) - others) <= 2
    assert (bits[0].item(), bits[-1].item()) == (3, 5)


@pytest.mark.parametrize(("bits", "gap", "fewer", "more"), [(4, 2, 2, 6), (4, 3, 1, 7), (2, 2, 1, 4)])
def test_gap_is_added_and_taken_away(bits: int, gap: int, fewer: int, more: int) -> None:
    deviation = torch.tensor([0.001, *[1.0] * 30, 1000.0]).reshape(1, -1, 1, 1)
    chosen = MixedDaqFakeQuantize("x", IntGrid(bits), options={"gap": gap})
    widths = chosen.choose_bits(deviation).flatten().tolist()
    assert (widths[0], widths[1], widths[-1]) == (fewer, bits, more)
    steps, levels = chosen.steps_and_levels(torch.tensor([fewer, bits, more], dtype=torch.float64))
    assert steps.tolist() == [gaussian_step(n) for n in (fewer, bits, more)]
    assert levels.tolist() == [2**fewer, 2**bits, 2**more]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    images = tmp_path_factory.mktemp("daq") / "images"
    for n in range(2):
        save(pixels(24, 30, seed=n), images / f"{n}.png")
    return images


def quantized(images: Path, out: Path, *overrides: str) -> Run:
    pytest.importorskip("torchao")
    recipe = Recipe.load("paper-w4a4-daq", ["calibration.patches=2", "calibration.size=16", *overrides])
    return quantize(recipe, model=networks.network("edsr"), images=images, out=out)


def note(seen: dict[str, Tensor], group: str, _module: Module, inputs: tuple[Tensor, ...]) -> None:
    seen[group] = inputs[0].detach()


def test_a_run_simulates_with_its_options(folder: Path, tmp_path: Path) -> None:
    outputs: list[Tensor] = []
    for name, options in (("one", "{}"), ("two", "{granularity: layer}")):
        run = quantized(folder, tmp_path / name, f"activations.quantizer_options={options}")
        outputs.append(run.table.simulate(run.network)(networks.images(1)))
    one, two = outputs
    assert not torch.allclose(one, two)


def test_cost_sums_channels_by_equation_10(folder: Path, tmp_path: Path) -> None:
    """Fit the deviations of each map and sum the bits of its channels by hand."""
    run = quantized(
        folder, tmp_path / "run", "activations.quantizer=daq-m", "activations.quantizer_options={share: 0.5}"
    )
    seen: dict[str, Tensor] = {}
    simulated = run.table.simulate(run.network)
    for group, member in simulated.of_role("activation").items():
        member.register_forward_pre_hook(partial(note, seen, group))
    image = to_tensor(pixels(24, 30, seed=0)[None], (0.0, 1.0))
    simulated(image)
    equation_9, equation_10 = (Estimate.of_run(run, (1, 3, 24, 30), images) for images in ([], [image]))
    added, changed = 0.0, 0
    for layer in equation_9.costs.layer_costs(run.table.plan):
        site = run.table.plan.by_edge.get(Edge(layer.layer.name, 0))
        if site is not None:
            deviation = seen[site.group].double().std((2, 3), correction=0).numpy()[0]
            logs = np.log(deviation[deviation > 0])
            far = logs.std() * NormalDist().inv_cdf(0.75)
            bits = np.full(len(deviation), 3)  # of channels that are constant
            bits[deviation > 0] = 4 + (logs > logs.mean() + far).astype(int) - (logs < logs.mean() - far)
            added += 2 * layer.layer.macs * 4 * (bits - 4).mean()
            changed += int((bits != 4).sum())
    assert changed > 4
    assert equation_10.quantized.daq_operations - equation_9.quantized.daq_operations == pytest.approx(added)
    assert equation_10.record()["quantized"]["daq_operations"] == equation_10.quantized.daq_operations


def test_cost_takes_images_for_a_run(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = quantized(folder, tmp_path / "run", "activations.quantizer=daq-m")
    assert main(["cost", str(run.folder), "--images", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["channel_bits"]
    assert main(["cost", "--recipe", "paper-w4a4-daq", "--images", str(folder)]) != 0
    assert "channels are measured in a run; give its folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("activations.quantizer_options.granularity=kernel", "granularity: 'kernel' is not allowed; give 'layer' or"),
        ("weights.quantizer_options.granularity=layer", "weights.quantizer: daq: granularity is an option of activati"),
    ],
)
def test_wrong_granularities_are_refused(override: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(SrptqError, match=re.escape(message)):
        quantize(Recipe.load("paper-w4a4-daq", [override]), images=tmp_path / "nowhere", out=tmp_path / "run")


@pytest.mark.parametrize(
    ("options", "message"),
    [("{gap: 0}", "gap: 0 is not allowed; give a whole number"), ("{share: 1.5}", "share: 1.5 is not allowed; give a")],
)
def test_wrong_mixtures_are_refused(options: str, message: str, tmp_path: Path) -> None:
    chosen = ["activations.quantizer=daq-m", f"activations.quantizer_options={options}"]
    with pytest.raises(SrptqError, match=re.escape(f"activations.quantizer_options.{message}")):
        quantize(Recipe.load("paper-w4a4-daq", chosen), images=tmp_path / "nowhere", out=tmp_path / "run")
