"""Error-compensated rounding: levels of the grid, a smaller output error, and never a worse image."""

from typing import Any

import pytest
import torch
from helpers import networks, saturating
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from srptq_plugin.deploy.quant_table import QuantTable
from srptq_plugin.graph.export import export_network, own_module
from srptq_plugin.graph.network import Network, drop_identities
from srptq_plugin.planning.prepared_graph import PreparedGraph
from srptq_plugin.plugins.bound_recipe import BoundRecipe
from srptq_plugin.plugins.registry import Registry
from srptq_plugin.quantization.grid import Bounds, IntGrid, QParams, dequantize, project, quantize
from srptq_plugin.quantization.quantizer import Mode
from srptq_plugin.quantization.saturation import safe
from srptq_plugin.reconstruction import compensation
from srptq_plugin.reconstruction.compensation import InputPart, compensate, round_weight

SYMMETRIC = IntGrid(8, signed=True, symmetric=True, narrow_range=True, channel_axis=0)
GRIDS = [
    SYMMETRIC,
    SYMMETRIC.at(4),
    IntGrid(8, channel_axis=0),
    IntGrid(4, float_zero_point=True, channel_axis=0),
    IntGrid(8),
]


def draw_weight(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def by_extremes(weight: Tensor, grid: IntGrid) -> QParams:
    ends = weight.flatten(1).aminmax(dim=1) if grid.channel_axis == 0 else weight.aminmax()
    return project(Bounds.of(ends.min, ends.max), grid)


def alike(count: int, correlation: float) -> Tensor:
    """Return the second moments of values with equal correlations."""
    return (1 - correlation) * torch.eye(count) + correlation * torch.ones(count, count)


def error(weight: Tensor, levels: Tensor, moments: Tensor) -> float:
    """Return the squared error of the outputs."""
    off = (weight - levels).double().flatten(1)
    return float((off @ moments.double() * off).sum())


@pytest.mark.parametrize("grid", GRIDS)
@given(seed=st.integers(0, 10**6))
def test_uncorrelated_inputs_give_nearest_levels(grid: IntGrid, seed: int) -> None:
    weight = draw_weight((3, 4, 3, 3), seed)
    qparams = by_extremes(weight, grid)
    levels = round_weight(weight, qparams, [InputPart(0, slice(0, 4), torch.eye(36))])
    nearest = dequantize(quantize(weight, qparams), qparams)
    off, least = (levels - weight).abs(), (nearest - weight).abs()  # half way between two levels either is nearest
    assert bool((off - least <= 1e-5 * qparams.scale.max()).all())


@pytest.mark.parametrize("grid", GRIDS)
@given(seed=st.integers(0, 10**6))
def test_correlated_inputs_halve_the_output_error(grid: IntGrid, seed: int) -> None:
    weight, moments = draw_weight((64, 4, 3, 3), seed), alike(36, 0.95)
    qparams = by_extremes(weight, grid)
    levels = round_weight(weight, qparams, [InputPart(0, slice(0, 4), moments)])
    integers = quantize(levels, qparams)
    assert bool((integers >= grid.qmin).all() & (integers <= grid.qmax).all())
    nearest = round_weight(weight, qparams, [InputPart(0, slice(0, 4), torch.eye(36))])
    assert error(weight, levels, moments) < 0.5 * error(weight, nearest, moments)


@given(seed=st.integers(0, 10**6), inputs=st.integers(1, 6), correlation=st.floats(0, 0.99))
def test_compensated_weights_never_overflow(seed: int, inputs: int, correlation: float) -> None:
    weight = draw_weight((3, inputs, 3, 3), seed).abs()
    grid = IntGrid(8, signed=True, symmetric=True, narrow_range=True, channel_axis=0, pair_limit=128)
    qparams = safe(weight, by_extremes(weight, grid))
    part = InputPart(0, slice(0, inputs), alike(9 * inputs, correlation))
    levels = round_weight(weight, qparams, [part])
    assert not saturating.overflows(quantize(levels, qparams).numpy())
    assert torch.equal(safe(levels, qparams).scale, qparams.scale)


class Single(nn.Module):
    """One convolution of some geometry between others."""

    def __init__(self, **geometry: Any) -> None:
        super().__init__()
        self.grow = nn.Conv2d(3, 12, 3, padding=1)
        self.conv = nn.Conv2d(12, 12, **geometry)
        self.tail = nn.Conv2d(12, 12, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return functional.pixel_shuffle(self.tail(self.conv(self.grow(x))), 2)


def prepare(module: nn.Module) -> PreparedGraph:
    torch.manual_seed(1)
    program, recipe, registry = export_network(module.eval()), networks.recipe(4), Registry()
    network = Network(drop_identities(own_module(program)))
    plan = BoundRecipe.of(recipe, registry).plan(network, networks.UNIT)
    prepared = PreparedGraph.from_plan(network.module, plan)
    prepared.observe([networks.images(seed=1)])
    return prepared


@pytest.mark.parametrize(
    "geometry",
    [
        {"kernel_size": 3, "padding": 1},
        {"kernel_size": 1},
        {"kernel_size": (3, 5), "padding": (1, 2), "groups": 3},
        {"kernel_size": 3, "padding": 2, "dilation": 2, "groups": 12},
        {"kernel_size": 3, "padding": "same"},
    ],
)
def test_moments_match_the_values_that_weights_read(geometry: dict[str, Any]) -> None:
    prepared = prepare(Single(**geometry))
    read: list[Tensor] = []
    site = next(site for site in prepared.plan.sites if site.source == "grow/conv")

    def listen(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
        read.append(output)

    prepared.quantizers[site.group].register_forward_hook(listen)
    image = networks.images(1)
    weight = next(site for site in prepared.plan.weights if site.name.startswith("conv"))
    with torch.no_grad():
        parts = compensation.InputReader(prepared).measure(image)[weight]
    conv = nn.Conv2d(12, 12, **geometry)
    (height, width), groups = conv.kernel_size, conv.groups
    padding = tuple(d * (k - 1) // 2 for d, k in zip(conv.dilation, conv.kernel_size, strict=True))
    rows = functional.unfold(read[0], (height, width), conv.dilation, padding).view(groups, -1, 12 * 14)
    assert [part.group for part in parts] == list(range(groups))
    for part, expected in zip(parts, rows, strict=True):
        torch.testing.assert_close(part.moments, expected @ expected.T)


@pytest.mark.parametrize("kind", [*networks.NETWORKS, "normed", "rdn"])
@pytest.mark.parametrize("bits", [8, 4])
def test_the_image_never_gets_worse(kind: str, bits: int) -> None:
    prepared, images = networks.calibrated(kind, bits), networks.images(6, seed=1)
    teacher = prepared.float_forward(images)[0]
    with torch.no_grad():
        before = (prepared(images) - teacher).square().mean()
        gain = compensate(prepared, images)
        after = (prepared(images) - teacher).square().mean()
    assert gain >= 0
    assert float(10 * torch.log10(before / after)) == pytest.approx(gain, abs=0.01)
    assert torch.equal(prepared.float_forward(images)[0], teacher)
    table = QuantTable.of(prepared)
    assert not any(saturating.overflows(integers.numpy()) for integers in table.weights.values() if bits == 8)


def zeros_like(weight: Tensor, *_: Any) -> Tensor:
    return torch.zeros_like(weight)


def test_weights_without_gain_stay_unchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    prepared, images = networks.calibrated("edsr"), networks.images(6, seed=1)
    before = QuantTable.of(prepared)
    monkeypatch.setattr(compensation, "round_weight", zeros_like)
    assert compensate(prepared, images) == 0
    after = QuantTable.of(prepared)
    assert all(torch.equal(before.weights[name], after.weights[name]) for name in before.weights)


def test_wide_layers_are_cut_between_channels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compensation, "MOST", 40)
    prepared = networks.calibrated("edsr")
    with torch.no_grad(), prepared.mode(Mode.QUANTIZE):
        parts = compensation.InputReader(prepared).measure(networks.images(2))
    cut = {site.name: [part.channels for part in site_parts] for site, site_parts in parts.items()}
    assert cut["head.weight"] == [slice(0, 4)]
    assert cut["tail.weight"] == [slice(0, 4), slice(4, 8)]
    assert compensate(prepared, networks.images(6, seed=1)) >= 0
