"""The quantizer's arithmetic: torch's kernels against the grid's, gradients against formulas."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from helpers.fake_quantizers import ACTIVATION, GRIDS, WEIGHT, ends_of, quantizing, sample
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from srptq_plugin.quantization.grid import Bounds, IntGrid, QParams, dequantize, project, quantize
from srptq_plugin.quantization.quantizer import BoundedFakeQuantize, fake_quantize

Three = tuple[Tensor, Tensor, Tensor]


def gradients(quantizer: BoundedFakeQuantize, values: Tensor, weights: Tensor) -> Three:
    """Return the gradients of lower, upper and the values."""
    values = values.clone().requires_grad_()
    loss = (quantizer(values) * weights).sum()
    by_lower, by_upper, by_values = torch.autograd.grad(loss, [quantizer.lower, quantizer.upper, values])
    return by_lower, by_upper, by_values


def along(parameter: Tensor, grid: IntGrid) -> Tensor:
    if grid.channel_axis is None:
        return parameter
    return parameter.reshape([-1 if axis == grid.channel_axis else 1 for axis in range(3)])


def summed(values: Tensor, grid: IntGrid) -> Tensor:
    return values.sum([axis for axis in range(3) if axis != grid.channel_axis])


def lsq_plus(grid: IntGrid, bounds: Bounds, values: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Apply the chain rule in float64: LSQ+'s derivatives by scale and zero point, then both by the bounds."""
    qparams = project(bounds, grid)
    scale, zero = along(qparams.scale.double(), grid), along(qparams.zero_point.double(), grid)
    x, g = values.double(), weights.double()
    steps = (x / scale).round()
    below, above = steps + zero < grid.qmin, steps + zero > grid.qmax
    inside = ~(below | above)
    by_scale = torch.where(below, grid.qmin - zero, torch.where(above, grid.qmax - zero, steps - x / scale))
    by_zero = torch.where(inside, 0.0, -scale.expand_as(x))
    d_scale, d_zero = summed(g * by_scale, grid), summed(g * by_zero, grid)
    lower, s = bounds.lower, qparams.scale.double()
    if grid.symmetric:
        on_lower = lower / grid.qmin > bounds.upper / grid.qmax
        even = lower / grid.qmin == bounds.upper / grid.qmax
        share = torch.where(even, 0.5, on_lower.double())
        return d_scale * share / grid.qmin, d_scale * (1 - share) / grid.qmax, g * inside
    by_step = d_scale + d_zero * lower / s**2
    return -by_step / grid.steps - d_zero / s, by_step / grid.steps, g * inside


@st.composite
def cases(draw: st.DrawFn) -> tuple[QParams, Tensor]:
    """Draw parameters on any grid, and values that lie within, on ties and far out."""
    grid = draw(st.sampled_from(GRIDS))
    low, high = sorted(draw(st.tuples(st.floats(-5, 5, width=32), st.floats(-5, 5, width=32))))
    magnitude = draw(st.sampled_from([1e-5, 1.0, 255.0]))
    qparams = project(ends_of(grid, low * magnitude, high * magnitude), grid)
    values = sample(draw(st.integers(0, 1000))) * magnitude * draw(st.sampled_from([0.1, 1.0, 1e4]))
    ties = (torch.arange(values.numel()).reshape(values.shape) - 20) * 0.5
    scale = along(qparams.scale, grid)
    return qparams, draw(st.sampled_from([values, (ties * scale).contiguous(), torch.zeros_like(values)]))


def torchs_own(values: Tensor, qparams: QParams) -> Tensor:
    """Quantize with the kernels that toolkits put in place of our quantizers."""
    grid, zero_point = qparams.grid, qparams.zero_point.int()
    if grid.float_zero_point:
        offset = along(qparams.zero_point * qparams.scale, grid)
        whole = QParams(qparams.scale, torch.zeros_like(qparams.zero_point), replace(grid, float_zero_point=False))
        return torchs_own(values + offset, whole) - offset
    ends = grid.qmin, grid.qmax
    if grid.channel_axis is None:
        return torch.fake_quantize_per_tensor_affine(values, qparams.scale, zero_point, *ends)
    return torch.fake_quantize_per_channel_affine(values, qparams.scale, zero_point, grid.channel_axis, *ends)


@given(cases())
def test_rounding_matches_torchs_kernels_bit_for_bit(case: tuple[QParams, Tensor]) -> None:
    qparams, values = case
    assume((values / along(qparams.scale, qparams.grid)).abs().max() < 2**62)  # torch's kernels cast to int64
    expected = dequantize(quantize(values, qparams), qparams)
    values, pull = values.clone().requires_grad_(), sample(5)
    ours, theirs = fake_quantize(values, qparams), torchs_own(values, qparams)
    assert torch.equal(ours, expected)
    assert torch.equal(ours, theirs)
    (by_ours,), (by_theirs,) = (torch.autograd.grad(output, values, pull) for output in (ours, theirs))
    assert torch.equal(by_ours, by_theirs)


@given(cases(), st.sampled_from(["full", "pact"]))
def test_trainable_forwards_have_the_same_bits(case: tuple[QParams, Tensor], gradient: Any) -> None:
    qparams, values = case
    quantizer = quantizing(qparams.grid, qparams.bounds)
    quantizer.gradient = gradient
    qparams = quantizer.qparams().detach()
    learning = quantizer(values)
    assert learning.requires_grad
    expected = dequantize(quantize(values, qparams), qparams)
    assert torch.equal(learning.detach(), expected)
    with torch.no_grad():
        assert torch.equal(quantizer(values), expected)
    quantizer.freeze()
    assert torch.equal(quantizer(values), expected)


@given(cases())
def test_quantizing_twice_changes_nothing(case: tuple[QParams, Tensor]) -> None:
    qparams, values = case
    if qparams.grid.float_zero_point:
        return
    once = fake_quantize(values, qparams)
    assert torch.equal(fake_quantize(once, qparams), once)


@pytest.mark.parametrize("grid", [grid for grid in GRIDS if not grid.float_zero_point and not grid.power_of_two])
@pytest.mark.parametrize("ends", [(-1.0, 0.7), (-0.2, 1.3), (-0.9, 0.1)])
def test_full_gradients_match_lsq_plus(grid: IntGrid, ends: tuple[float, float]) -> None:
    if grid.symmetric and not grid.signed:
        grid = replace(grid, signed=True)
    quantizer = quantizing(grid, ends_of(grid, *ends))
    if grid.symmetric:
        quantizer.upper.data *= 0.9
    values, weights = sample(1), sample(2)
    bounds = Bounds(quantizer.lower.detach(), quantizer.upper.detach())
    formulas = lsq_plus(grid, bounds, values, weights)
    for actual, expected in zip(gradients(quantizer, values, weights), formulas, strict=True):
        torch.testing.assert_close(actual.double(), expected, rtol=2e-3, atol=2e-3)


def test_gradients_with_a_float_zero_point() -> None:
    """Clipped values have the derivative 1 by the bound that clips them, as in equation (1)."""
    grid = IntGrid(4, float_zero_point=True)
    quantizer = quantizing(grid, Bounds.of(-0.5, 1.0))
    low, high, _ = gradients(quantizer, torch.tensor([-3.0, -2.0]), torch.tensor([1.0, 2.0]))
    assert (low.item(), high.item()) == pytest.approx((3.0, 0.0), abs=1e-5)
    low, high, _ = gradients(quantizer, torch.tensor([3.0, 2.0]), torch.tensor([1.0, 2.0]))
    assert (low.item(), high.item()) == pytest.approx((0.0, 3.0), abs=1e-5)


@pytest.mark.parametrize("grid", [ACTIVATION, WEIGHT, IntGrid(4, float_zero_point=True), IntGrid(4, channel_axis=1)])
def test_pact_moves_only_the_bound_that_clips(grid: IntGrid) -> None:
    quantizer = quantizing(grid, ends_of(grid, -1.0, 1.0))
    quantizer.gradient = "pact"
    values, weights = 2 * sample(3), sample(4)
    real = quantizer.qparams().bounds
    below, above = values < along(real.lower, grid), values > along(real.upper, grid)
    lower, upper, passed = gradients(quantizer, values, weights)
    torch.testing.assert_close(lower, summed(weights * below, grid).double())
    torch.testing.assert_close(upper, summed(weights * above, grid).double())
    assert torch.equal(passed, weights * ~(below | above))
    inside = values * ~(below | above)
    still = gradients(quantizer, inside, weights)
    assert not still[0].any()
    assert not still[1].any()
