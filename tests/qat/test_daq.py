"""DAQ against a plain transcription of its equations in float64, and by name in both toolkits."""

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import NormalDist
from typing import Any

import pytest
import torch
from helpers import networks
from helpers.photographs import pixels, save
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import srptq_plugin
from srptq_plugin.deploy.quant_table import QuantTable
from srptq_plugin.errors import SrptqError
from srptq_plugin.pipeline import quantize
from srptq_plugin.planning.prepared_graph import PreparedGraph
from srptq_plugin.plugins.registry import Registry
from srptq_plugin.qat.daq import DaqFakeQuantize, MixedDaqFakeQuantize, gaussian_step
from srptq_plugin.qat.dynamic import LinearFakeQuantize
from srptq_plugin.qat.train_run import train_run
from srptq_plugin.quantization import grid
from srptq_plugin.quantization.grid import Bounds, IntGrid, dequantize
from srptq_plugin.quantization.quantizer import Mode
from srptq_plugin.recipes.recipe import Recipe
from srptq_plugin.runs.run import Run

STEPS = {1: 1.596, 2: 0.996, 3: 0.586, 4: 0.335, 5: 0.188}
IMAGES = networks.images(8, seed=5)
FLOAT_ENDS = {stage: {"quantize": False} for stage in ("head", "upsample", "tail")}
KINDS = ["daq", "daq-m", "linear"]


def make(kind: type[DaqFakeQuantize | LinearFakeQuantize], bits: int, lower: float = -1.0) -> Any:
    quantizer = kind("x", IntGrid(bits, float_zero_point=True), bounds=Bounds.of(lower, 1.0))
    quantizer.set_mode(Mode.QUANTIZE)
    return quantizer


def maps(seed: int, channels: int = 5) -> Tensor:
    """Draw feature maps whose channels have very different deviations."""
    generator = torch.Generator().manual_seed(seed)
    spread = torch.exp(torch.randn(2, channels, 1, 1, generator=generator))
    return spread * (torch.randn(2, channels, 6, 7, generator=generator) + torch.randn(channels, 1, 1))


def transcribed(channel: list[float], bits: int, *, after_relu: bool) -> Iterator[float | None]:
    """Yield equations 2 to 6 value by value, or None near a tie, which float32 may round the other way."""
    mean = math.fsum(channel) / len(channel)
    deviation = math.sqrt(math.fsum((x - mean) ** 2 for x in channel) / len(channel))
    step = gaussian_step(bits)
    alpha = (2 ** (bits - 1) - 0.5) * step
    beta = max(alpha - mean / deviation, 0.0) if after_relu else 0.0
    for x in channel:
        place = min(max((x - mean) / deviation, -alpha + beta), alpha + beta) / step + 0.5
        tie = abs(place - math.floor(place) - 0.5) < 1e-4
        yield None if tie else deviation * (math.floor(place + 0.5) - 0.5) * step + mean


def agree(output: Tensor, values: Tensor, bits: Any, *, after_relu: bool) -> None:
    for n, image in enumerate(values.double().tolist()):
        for c, rows in enumerate(image):
            channel = [x for row in rows for x in row]
            expected = transcribed(channel, bits[n][c], after_relu=after_relu)
            size = max(map(abs, channel))
            for x, y in zip(output[n, c].flatten().tolist(), expected, strict=True):
                assert y is None or x == pytest.approx(y, rel=1e-4, abs=1e-5 * size)


@pytest.mark.parametrize(("bits", "step"), STEPS.items())
def test_steps_match_the_paper(bits: int, step: float) -> None:
    assert gaussian_step(bits) == pytest.approx(step, abs=5e-4)


@pytest.mark.parametrize("bits", [1, 2, 4, 7])
def test_gaussian_steps_have_the_least_error(bits: int) -> None:
    """Compare with neighboring steps, by a plain sum over the density."""
    x = torch.arange(-8, 8, 1e-3, dtype=torch.float64)
    density = (-0.5 * x**2).exp()

    def error(step: float) -> float:
        alpha = (2 ** (bits - 1) - 0.5) * step
        return float((density * (((x / step).floor() + 0.5).mul(step).clamp(-alpha, alpha) - x) ** 2).sum())

    best = error(gaussian_step(bits))
    assert all(error(gaussian_step(bits) * factor) > best for factor in (0.97, 0.99, 1.01, 1.03))


@settings(max_examples=40)
@given(st.integers(1, 6), st.integers(0, 1000), st.booleans())
def test_feature_maps_match_the_paper(bits: int, seed: int, after_relu: bool) -> None:  # noqa: FBT001
    values = maps(seed).relu() + 0.01 * maps(seed + 1).abs() if after_relu else maps(seed)
    quantizer = make(DaqFakeQuantize, bits, lower=0.0 if after_relu else -1.0)
    agree(quantizer(values), values, [[bits] * 5] * 2, after_relu=after_relu)


@settings(max_examples=15)
@given(st.integers(2, 6), st.integers(0, 1000))
def test_mixed_precision_goes_by_the_log_normal_fit(bits: int, seed: int) -> None:
    values = maps(seed, channels=24)
    logs = values.double().std((2, 3), correction=0).log()
    beyond = NormalDist().inv_cdf(1 - 0.05)
    low, high = (logs.mean(1) + sign * beyond * logs.std(1, correction=0) for sign in (-1, 1))
    expected = [[bits + (x > float(high[n])) - (x < float(low[n])) for x in row] for n, row in enumerate(logs.tolist())]
    agree(make(MixedDaqFakeQuantize, bits)(values), values, expected, after_relu=False)


@pytest.mark.parametrize("kind", [DaqFakeQuantize, MixedDaqFakeQuantize, LinearFakeQuantize])
@pytest.mark.parametrize("bits", [1, 4])
def test_constant_channels_stay_and_nothing_is_nan(kind: Any, bits: int) -> None:
    values = torch.full((2, 4, 3, 3), 0.7)
    assert torch.allclose(make(kind, bits)(values), values)
    values[1, 2] = torch.linspace(-1, 1, 9).reshape(3, 3)
    output = make(kind, bits)(values)
    assert output.isfinite().all()
    assert torch.allclose(output[0], values[0])
    assert make(kind, bits)(torch.zeros(1, 4, 3, 3)).abs().max() == 0


def test_channels_are_independent() -> None:
    values = maps(3)
    quantizer = make(DaqFakeQuantize, 3)
    assert torch.equal(quantizer(values)[1:, 2:], quantizer(values[1:, 2:]))


@pytest.mark.parametrize("kind", [DaqFakeQuantize, MixedDaqFakeQuantize, LinearFakeQuantize])
def test_gradient_is_the_identity(kind: Any) -> None:
    values = maps(4).requires_grad_()
    pulls = torch.randn(values.shape)
    quantizer = make(kind, 2)
    quantizer(values).backward(pulls)
    assert values.grad is not None
    assert torch.equal(values.grad, pulls)
    assert quantizer.lower.grad is None
    assert not quantizer.lower.requires_grad


@pytest.mark.parametrize("axis", [None, 0])
@pytest.mark.parametrize("bits", [1, 3])
def test_weights_have_levels_at_half_steps(bits: int, axis: int | None) -> None:
    weight = 0.3 * torch.randn(8, 4, 3, 3, generator=torch.Generator().manual_seed(bits)).requires_grad_()
    quantizer = DaqFakeQuantize("w", IntGrid(bits, channel_axis=axis, float_zero_point=True), constant=True)
    quantizer.set_bounds(Bounds.of(-1.0, 1.0))
    quantizer.set_mode(Mode.QUANTIZE)
    output = quantizer(weight)
    deviation = weight.detach().double().std(None if axis is None else [1, 2, 3], correction=0, keepdim=True)
    step = gaussian_step(bits) * deviation
    reach = (2 ** (bits - 1) - 0.5) * step
    place = weight.detach().double().clamp(-reach, reach) / step + 0.5
    clear = (place - place.floor() - 0.5).abs() > 1e-4
    expected = (place.round() - 0.5) * step
    assert torch.allclose(output.detach().double()[clear], expected[clear], rtol=1e-5)
    output.backward(torch.ones_like(output))
    again = dequantize(grid.quantize(weight.detach(), quantizer.qparams()), quantizer.qparams())
    assert torch.equal(again.float(), output.detach())


def test_weight_levels_follow_the_weight() -> None:
    quantizer = DaqFakeQuantize("w", IntGrid(2, float_zero_point=True), constant=True)
    quantizer.refresh(torch.tensor([1.0, -1.0]))
    before = quantizer.qparams().scale
    quantizer.refresh(torch.tensor([3.0, -3.0]))
    assert quantizer.qparams().scale.item() == pytest.approx(3 * before.item())


@given(st.integers(1, 8), st.integers(0, 100))
def test_linear_uses_the_extremes_of_each_image(bits: int, seed: int) -> None:
    values = maps(seed)
    output = make(LinearFakeQuantize, bits)(values)
    for image, rounded in zip(values.double(), output.double(), strict=True):
        low, high = image.min(), image.max()
        place = (image - low) / (high - low) * (2**bits - 1)
        clear = (place - place.floor() - 0.5).abs() > 1e-3
        expected = low + place.round() * (high - low) / (2**bits - 1)
        assert torch.allclose(rounded[clear], expected[clear], rtol=1e-4, atol=float(1e-5 * (high - low)))


def recipe(bits: int = 4, kind: str = "daq", **keys: Any) -> Recipe:
    weights = {"bits": bits, "quantizer": kind.removesuffix("-m"), "per_channel": False}
    given = {"weights": weights, "activations": {"quantizer": kind}, "stages": FLOAT_ENDS, "placement": "convs"}
    return networks.recipe(bits, "paper", **(given | keys))


def prepared_by(toolkit: str, network: str, chosen: Recipe) -> PreparedGraph:
    plan = networks.plan(network, chosen)
    prepared = Registry().toolkit(toolkit).load().realize(networks.exported(network), plan)
    prepared.observe([IMAGES])
    return prepared


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("network", "bits"), [("edsr", 1), ("esrgan", 4), ("imdn", 3), ("mixed", 4), ("shared", 2)])
def test_a_saved_table_simulates_the_prepared_graph(kind: str, network: str, bits: int, tmp_path: Path) -> None:
    chosen = recipe(bits, kind)
    prepared = networks.realize(network, networks.plan(network, chosen))
    prepared.observe([IMAGES])
    table = QuantTable.of(prepared)
    table.save(tmp_path / "table.safetensors")
    loaded = QuantTable.load(tmp_path / "table.safetensors")
    with pytest.raises(SrptqError, match=r"computed from each image; simulate by Run\.open"):
        loaded.simulate(networks.graph(network))
    image = networks.images(3, 11, 17)
    assert torch.equal(table.simulate(networks.graph(network))(image), prepared(image))
    assert loaded.states.keys() == table.states.keys()
    damaged = replace(table, states={group: {"lower": state["lower"]} for group, state in table.states.items()})
    with pytest.raises(SrptqError, match=r"site .*: its state"):
        damaged.simulate(networks.graph(network))


@pytest.mark.parametrize("toolkit", ["torchao", "mqbench"])
@pytest.mark.parametrize("kind", KINDS)
def test_recipe_names_it_and_it_trains(toolkit: str, kind: str) -> None:
    pytest.importorskip(toolkit)
    everywhere = recipe(2, kind, stages={})
    prepared = prepared_by(toolkit, "edsr", everywhere)
    plain = networks.realize("edsr", networks.plan("edsr", everywhere))
    plain.observe([IMAGES])
    assert torch.equal(prepared(IMAGES), plain(IMAGES))
    log = srptq_plugin.train(prepared.module, IMAGES, steps=30, every=10, average=0.9, value_rate=0.05)
    assert max(record.psnr for record in log) > log[0].psnr
    table = QuantTable.of(prepared)
    assert torch.equal(table.simulate(networks.graph("edsr"))(IMAGES), prepared(IMAGES))


def test_pac_has_nothing_to_tune() -> None:
    with pytest.raises(SrptqError, match="reconstruction pac: no quantizer here has bounds to tune"):
        Registry().reconstruction("pac").load()(prepared_by("torchao", "edsr", recipe()), IMAGES)


@pytest.mark.parametrize(
    ("target", "preset"),
    [
        *((target, None) for target in ("openvino", "onnxruntime", "tensorrt", "snpe", "litert", "ncnn", "executorch")),
        ("paper", "fqsr"),
    ],
)
@pytest.mark.parametrize("role", ["weights", "activations"])
def test_integer_grids_refuse_it(target: str, preset: str | None, role: str, tmp_path: Path) -> None:
    chosen = Recipe.model_validate({"target": target, "preset": preset, role: {"quantizer": "daq"}})
    message = rf"{role}\.quantizer: daq computes its levels .* which {target} does not run; set it to bounded"
    with pytest.raises(SrptqError, match=message):
        quantize(chosen, images=tmp_path / "nowhere", out=tmp_path / "run")


def test_one_bit_is_for_simulation_only() -> None:
    assert networks.plan("edsr", recipe(1)).sites
    with pytest.raises(SrptqError, match=r"weights\.bits: openvino has no 1 bits here"):
        networks.plan("edsr", networks.recipe(1, "openvino"))


def test_convert_pt2e_refuses_it() -> None:
    pytest.importorskip("torchao")
    prepared = prepared_by("torchao", "edsr", recipe())
    with pytest.raises(SrptqError, match=r"convert_pt2e: site body.* its levels are computed from each image"):
        prepared.quantizers["body.0/relu"].calculate_qparams()  # pyright: ignore[reportCallIssue]


def test_mqbench_does_not_deploy_it() -> None:
    pytest.importorskip("mqbench")
    prepared = prepared_by("mqbench", "edsr", recipe())
    shells = [module for module in prepared.module.modules() if hasattr(module, "core")]
    (shell,) = (module for module in shells if module.core is prepared.quantizers["body.0/relu"])
    with pytest.raises(SrptqError, match=r"site body\.0/relu: its levels are computed from each image"):
        shell.calculate_qparams()  # pyright: ignore[reportCallIssue]
    shell(IMAGES)
    shell.state_dict()


CALIBRATION = {"patches": 4, "size": 16, "batch": 2}
TRAINING = {"steps": 4, "every": 2, "batch": 2, "patch": 16, "value_rate": 0.05}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    pytest.importorskip("torchao")
    out = tmp_path_factory.mktemp("daq") / "run"
    return quantize(recipe(3, calibration=CALIBRATION), model=networks.network("edsr"), out=out)


def test_a_run_is_simulated_and_trained(run: Run, tmp_path: Path) -> None:
    for n in range(4):
        save(pixels(24, 30, seed=n), tmp_path / "low" / f"{n}.png")
    prepared = networks.realize("edsr", networks.plan("edsr", recipe(3)))
    prepared.observe([IMAGES])
    assert run.simulation()(IMAGES.numpy()) == pytest.approx(prepared(IMAGES).detach().numpy(), abs=1e-6)
    dynamic = {site["name"]: site["dynamic"] for site in run.summary["sites"]}
    assert dynamic["body.0/relu"]
    assert not dynamic["body.0.first.weight"]
    chosen = recipe(3, calibration=CALIBRATION, training=TRAINING)
    trained = train_run(chosen, run.folder, images=tmp_path / "low", out=tmp_path / "trained")
    assert trained.summary["training"]["psnr"] >= trained.summary["training"]["psnr_before"]
    assert trained.simulation()(IMAGES.numpy()).shape == (8, 3, 24, 28)
