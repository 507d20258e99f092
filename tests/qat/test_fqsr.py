"""FQSR against a plain transcription of its equations, its levels, and by name in both toolkits."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import networks
from helpers.photographs import pixels, save
from helpers.trainings import IMAGES, begun, interrupted
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import srptq_plugin
from srptq_adapters.mqbench import config_from
from srptq_plugin.deploy.quant_table import QuantTable
from srptq_plugin.pipeline import quantize
from srptq_plugin.plugins.registry import Registry
from srptq_plugin.qat.fqsr import FqsrFakeQuantize
from srptq_plugin.qat.train_run import train_run
from srptq_plugin.qat.training import Training
from srptq_plugin.quantization.grid import Bounds, IntGrid
from srptq_plugin.quantization.quantizer import Mode
from srptq_plugin.recipes.recipe import Recipe

KINDS: dict[str, dict[str, Any]] = {kind: {"quantizer": "fqsr"} for kind in ("weights", "activations")}


def recipe(bits: int = 4, target: str = "paper", **keys: Any) -> Recipe:
    preset = {"preset": "fqsr"} if target == "paper" else {}
    kinds = {kind: {"bits": bits, "observer": "minmax", **given} for kind, given in KINDS.items()}
    return Recipe.model_validate({"target": target, **preset, **kinds, **keys})


def of_kinds(kinds: Mapping[str, Mapping[str, Any]]) -> Recipe:
    return Recipe.model_validate({"target": "paper", "preset": "fqsr", **kinds})


def quantizer(interval: float, bits: int = 4, *, signed: bool = True) -> FqsrFakeQuantize:
    """Make a quantizer with the levels that a plan gives so many bits."""
    grid = IntGrid(bits + signed, signed=signed, symmetric=True, narrow_range=signed)
    made = FqsrFakeQuantize("x", grid)
    made.fixed = False
    made.set_bounds(Bounds.of(-0.3 * interval if signed else 0.1 * interval, interval))
    made.set_mode(Mode.QUANTIZE)
    return made


def transcribed(values: Tensor, interval: Tensor, bits: int, *, signed: bool) -> Tensor:
    """Compute equation (3), with rounding straight through."""
    steps = 2**bits - 1
    scaled = (values / interval).clamp(-1.0 if signed else 0.0, 1.0) * steps
    return (scaled + (scaled.round() - scaled).detach()) * (interval / steps)


def drawn(interval: float, bits: int, seed: int) -> Tensor:
    """Draw values within and beyond, none near a tie or within half a step beyond, which torch does not clip."""
    exact = 2 * torch.randn(256, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    steps = exact * (2**bits - 1)
    clear = (steps - steps.floor() - 0.5).abs() > 1e-2
    ends = ((exact.abs() - 1).abs() * (2**bits - 1) > 0.51) & (exact.abs() * (2**bits - 1) > 1e-2)
    return exact[clear & (ends | (exact.abs() < 1))] * interval


@given(interval=st.floats(0.1, 50.0), bits=st.integers(2, 8), signed=st.booleans(), seed=st.integers(0, 100))
def test_values_and_gradients_match_equation_3(interval: float, bits: int, *, signed: bool, seed: int) -> None:
    made, values = quantizer(interval, bits, signed=signed), drawn(interval, bits, seed)
    values = values if signed else values[(values > 0) | (values * (2**bits - 1) < -0.51 * interval)]
    pulls = torch.randn(len(values), generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64)
    plain = values.clone().requires_grad_(), torch.tensor(interval, dtype=torch.float64, requires_grad=True)
    expected = transcribed(*plain, bits, signed=signed)
    (expected * pulls).sum().backward()
    own = values.float().requires_grad_()
    output = made(own)
    (output * pulls.float()).sum().backward()
    assert torch.allclose(output.double(), expected, rtol=1e-4, atol=1e-5 * interval)
    assert torch.allclose(own.grad.double(), plain[0].grad, rtol=1e-4)  # pyright: ignore[reportOptionalMemberAccess, reportArgumentType]
    assert made.lower.grad is None
    assert made.upper.grad is not None
    assert made.upper.grad.item() == pytest.approx(plain[1].grad.item(), rel=1e-3, abs=1e-3)  # pyright: ignore[reportOptionalMemberAccess]


def test_unclipped_values_move_the_interval() -> None:
    made = quantizer(1.0, bits=2)
    made(torch.tensor([0.4, -0.4, 0.2])).sum().backward()
    assert made.upper.grad is not None
    assert made.upper.grad.item() == pytest.approx(((1 - 1.2) - (1 - 1.2) + (1 - 0.6)) / 3, rel=1e-5)


@pytest.mark.parametrize(
    "grid", [IntGrid(4), IntGrid(4, float_zero_point=True), IntGrid(4, signed=True, symmetric=True)]
)
@given(st.floats(-2, 0.5), st.floats(1.0, 3.0))
def test_bounds_are_mirrored_or_start_at_zero(grid: IntGrid, lower: float, upper: float) -> None:
    made = FqsrFakeQuantize("x", grid)
    made.set_bounds(Bounds.of(lower, upper))
    far, bounds = max(-lower, upper), made.bounds
    assert bounds.upper.item() == pytest.approx(far, rel=1e-6)
    assert bounds.lower.item() == (-bounds.upper.item() if lower < 0 or grid.signed else 0)


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("grid", [IntGrid(4), IntGrid(4, float_zero_point=True)])
def test_state_is_the_interval_and_its_sign(grid: IntGrid, *, signed: bool) -> None:
    one, other = FqsrFakeQuantize("x", grid), FqsrFakeQuantize("x", grid)
    one.set_bounds(Bounds.of(-1.0 if signed else 0.0, 1.0))
    other.set_bounds(Bounds.of(0.0 if signed else -3.0, 3.0))
    one.upper.data.mul_(1.5)
    other.load_state_dict(one.state_dict())
    assert torch.equal(one.qparams().scale, other.qparams().scale)
    assert torch.equal(one.qparams().zero_point, other.qparams().zero_point)


def test_plan_adds_a_sign_bit_except_after_relu() -> None:
    plan = networks.plan("edsr", recipe(4))
    grids = {site.name: site.grid for site in plan.sites}
    assert grids["body.0/relu"] == IntGrid(4, symmetric=True)
    assert grids["body.0/add"] == IntGrid(5, signed=True, symmetric=True, narrow_range=True)
    assert (grids["body.0/add"].qmin, grids["body.0/add"].steps + 1) == (-15, 2**5 - 1)
    assert grids["body.0.first.weight"] == IntGrid(5, signed=True, symmetric=True, narrow_range=True, channel_axis=0)
    assert grids["tail.weight"].bits == 9


@pytest.mark.parametrize("toolkit", ["torchao", "mqbench"])
def test_recipe_names_it_and_it_trains(toolkit: str) -> None:
    pytest.importorskip(toolkit)
    plan = networks.plan("edsr", recipe(3))
    prepared = Registry().toolkit(toolkit).load().realize(networks.exported("edsr"), plan)
    prepared.observe([IMAGES])
    assert all(isinstance(quantizer, FqsrFakeQuantize) for quantizer in prepared.of_role("weight").values())
    relu = prepared.quantizers["body.0/relu"]
    start = relu.upper.item()
    log = srptq_plugin.train(
        prepared.module, IMAGES, steps=30, every=15, average=0.9, value_rate=0.05, bound_rate=3e-3, calibration=0.01
    )
    assert max(record.psnr for record in log) > log[0].psnr
    assert relu.upper.item() != start
    assert (relu.bounds.lower.item(), relu.qparams().grid.qmin) == (0, 0)
    added = prepared.quantizers["body.0/add"].bounds
    assert torch.equal(added.lower, -added.upper)


def test_a_class_of_that_name_is_among_mqbenchs() -> None:
    settings = config_from(recipe(4))
    config = settings.prepare_custom_config_dict["extra_qconfig_dict"]
    assert (config["w_fakequantize"], config["a_fakequantize"]) == ("srptq.fqsr", "srptq.fqsr")
    assert (config["w_qscheme"]["bit"], config["w_qscheme"]["symmetric_range"]) == (5, True)


@pytest.mark.parametrize("target", ["paper", "onnxruntime", "openvino"])
def test_table_simulates_the_trained_network(target: str, tmp_path: Path) -> None:
    prepared = networks.realize("edsr", networks.plan("edsr", recipe(4, target)))
    prepared.observe([IMAGES])
    QuantTable.of(prepared).save(tmp_path / "table")
    loaded = QuantTable.load(tmp_path / "table")
    assert all(torch.equal(qparams.scale, loaded.qparams[name].scale) for name, qparams in prepared.qparams().items())
    if target == "paper":
        with torch.no_grad():
            assert torch.equal(loaded.simulate(networks.graph("edsr"))(IMAGES), prepared(IMAGES))


@pytest.mark.parametrize("observer", ["dbdc", "percentile", "mse"])
def test_any_observer_can_start_it(observer: str) -> None:
    started = {kind: {**options, "observer": observer} for kind, options in KINDS.items()}
    plain: dict[str, dict[str, Any]] = {kind: {"observer": observer} for kind in KINDS}
    ours, theirs = (networks.realize("edsr", networks.plan("edsr", of_kinds(kinds))) for kinds in (started, plain))
    for prepared in (ours, theirs):
        prepared.observe([IMAGES])
    for name, quantizer in ours.quantizers.items():
        observed = theirs.quantizers[name].observed
        if observed is not None:
            assert torch.allclose(
                quantizer.upper, torch.maximum(-observed.lower, observed.upper).clamp(min=1e-12), rtol=1e-5
            )


def test_start_is_the_mean_maximum_of_batches() -> None:
    """Compare with equation (4): the shipped recipe has a percentile that leaves nothing out."""
    paper = Recipe.load("paper-w8a8-fqsr-s8")
    prepared = networks.realize("edsr", networks.plan("edsr", paper))
    batches = IMAGES.split(3)
    seen: list[Tensor] = []
    relu = prepared.quantizers["body.0/relu"]
    relu.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].max()))
    prepared.observe(batches)
    assert relu.upper.item() == pytest.approx(torch.stack(seen).mean().item(), rel=1e-5)
    assert paper.calibration.patches == 20 * paper.calibration.batch


@pytest.mark.parametrize("name", ["paper-w4a4-fqsr-s8", "paper-w4a4-fqsr-s32"])
def test_shipped_recipes_calibrate_and_train(name: str, tmp_path: Path) -> None:
    pytest.importorskip("torchao")
    for n in range(3):
        save(pixels(24, 30, seed=n), tmp_path / "low" / f"{n}.png")
    calibration = ["calibration.patches=4", "calibration.batch=2", "calibration.size=16"]
    chosen = Recipe.load(name, [*calibration, "training.steps=2", "training.batch=2", "training.patch=16"])
    start = quantize(chosen, model=networks.network("edsr"), images=tmp_path / "low", out=tmp_path / "run")
    trained = train_run(chosen, start.folder, images=tmp_path / "low", out=tmp_path / "trained")
    training = trained.summary["training"]
    assert (training["steps"], training["psnr"] >= training["psnr_before"]) == (2, True)
    assert trained.table.plan.sites == start.table.plan.sites


def started() -> Training:
    return begun(networks.realize("edsr", networks.plan("edsr", recipe(3, skips={"bits": 6}))), calibration=0.3)


def test_an_interrupted_training_ends_with_the_same_bits(tmp_path: Path) -> None:
    whole, second = interrupted(started, tmp_path)
    assert all(map(torch.equal, whole.learned, second.learned))
