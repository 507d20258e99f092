"""Grids, bounds and their projection: properties, and formulas in float64."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from srptq_plugin.quantization.grid import (
    SMALLEST_RANGE,
    Bounds,
    IntGrid,
    QParams,
    dequantize,
    project,
    quantize,
)

BITS = st.sampled_from([2, 3, 4, 6, 8, 16])
CHANNELS = 3
REAL = st.floats(-1e6, 1e6, width=32)
VALUES = st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=40).map(torch.tensor)


@st.composite
def integer_grids(draw: st.DrawFn) -> IntGrid:
    signed = draw(st.booleans())
    return IntGrid(
        draw(BITS),
        signed=signed,
        symmetric=draw(st.booleans()),
        narrow_range=signed and draw(st.booleans()),
        channel_axis=draw(st.sampled_from([None, 0])),
        power_of_two=draw(st.booleans()),
    )


PAPER = [IntGrid(bits, float_zero_point=True) for bits in (2, 4, 8)]
GRIDS = integer_grids() | st.sampled_from(PAPER)


@st.composite
def bounds_for(draw: st.DrawFn, grid: IntGrid) -> Bounds:
    """Draw one pair of ends, or one for each channel."""
    scale = draw(st.sampled_from([1e-9, 1e-3, 1.0, 1e3]))
    size = 1 if grid.channel_axis is None else CHANNELS
    ends = draw(st.lists(st.lists(REAL, min_size=2, max_size=2).map(sorted), min_size=size, max_size=size))
    pairs = torch.tensor(ends, dtype=torch.float64) * scale
    return Bounds.of(pairs[0, 0], pairs[0, 1]) if grid.channel_axis is None else Bounds.of(pairs[:, 0], pairs[:, 1])


@st.composite
def grids_and_bounds(draw: st.DrawFn) -> tuple[IntGrid, Bounds]:
    grid = draw(GRIDS)
    return grid, draw(bounds_for(grid))


def same(one: QParams, other: QParams) -> bool:
    return torch.equal(one.scale, other.scale) and torch.equal(one.zero_point, other.zero_point)


def reference(ratio: np.ndarray, zero_point: float, grid: IntGrid) -> np.ndarray:
    """Compute the integers in float64."""
    return np.clip(np.rint(ratio) + zero_point, grid.qmin, grid.qmax)


@given(grids_and_bounds())
def test_projection_is_idempotent(case: tuple[IntGrid, Bounds]) -> None:
    grid, bounds = case
    once = project(bounds, grid)
    again = project(once.bounds, grid)
    assert same(again, once)
    assert torch.equal(again.bounds.lower, once.bounds.lower)
    assert torch.equal(again.bounds.upper, once.bounds.upper)


@pytest.mark.parametrize(
    "grid", [IntGrid(8), IntGrid(8, signed=True, symmetric=True), IntGrid(4, float_zero_point=True)]
)
def test_projection_is_idempotent_near_the_smallest_range(grid: IntGrid) -> None:
    near = SMALLEST_RANGE * (1 + torch.linspace(-1e-7, 1e-7, 201, dtype=torch.float64))
    for upper in near:
        once = project(Bounds.of(0.0, upper), grid)
        assert same(project(once.bounds, grid), once)


@pytest.mark.parametrize("bits", [2, 8, 16])
def test_powers_of_two_are_their_own_projection(bits: int) -> None:
    """Project many at once, with a vectorized logarithm, and one by one, with a scalar one."""
    grid = IntGrid(bits, signed=True, symmetric=True, channel_axis=0, power_of_two=True)
    powers = torch.exp2(torch.arange(-20, 20, dtype=torch.float64))
    many = project(Bounds.of(grid.qmin * powers, grid.qmax * powers), grid)
    assert torch.equal(many.scale, powers.float())
    for power in powers:
        one = project(Bounds.of(grid.qmin * power, grid.qmax * power), replace(grid, channel_axis=None))
        assert one.scale.item() == power


@given(grids_and_bounds())
def test_zero_is_exact_and_within_the_bounds(case: tuple[IntGrid, Bounds]) -> None:
    grid, bounds = case
    if grid.float_zero_point:
        return
    qparams = project(bounds, grid)
    assert (qparams.bounds.lower <= 0).all()
    assert (qparams.bounds.upper >= 0).all()
    assert torch.equal(qparams.zero_point, qparams.zero_point.round())
    assert ((qparams.zero_point >= grid.qmin) & (qparams.zero_point <= grid.qmax)).all()
    zeros = torch.zeros(CHANNELS, 2)
    assert torch.equal(dequantize(quantize(zeros, qparams), qparams), zeros)


@given(grids_and_bounds())
def test_projected_bounds_are_near_the_original_bounds(case: tuple[IntGrid, Bounds]) -> None:
    grid, bounds = case
    qparams = project(bounds, grid)
    lower, upper = narrowest_range(grid, bounds)
    span = upper - lower
    slack = (0.0 if grid.symmetric else 0.51) * qparams.scale + 1e-5 * torch.maximum(span, upper.abs())
    widest = (2 if grid.power_of_two else 1) * (span + qparams.scale) + 2 * slack
    real = qparams.bounds
    fits = (real.lower <= lower + slack) & (real.upper >= upper - slack) & (real.upper - real.lower <= widest)
    assert (fits | (span <= 2 * SMALLEST_RANGE)).all()


def narrowest_range(grid: IntGrid, bounds: Bounds) -> tuple[Tensor, Tensor]:
    """Return the narrowest range of the grid's kind around the bounds."""
    if grid.float_zero_point:
        return bounds.lower, bounds.upper
    lower, upper = bounds.lower.clamp(max=0), bounds.upper.clamp(min=0)
    if not grid.symmetric:
        return lower, upper
    if not grid.signed:
        return torch.zeros_like(upper), upper
    step = torch.maximum(lower / grid.qmin, upper / grid.qmax)
    return grid.qmin * step, grid.qmax * step


@given(grids_and_bounds())
def test_projection_respects_powers_of_two_and_symmetry(case: tuple[IntGrid, Bounds]) -> None:
    grid, bounds = case
    qparams = project(bounds, grid)
    if grid.power_of_two:
        assert torch.equal(qparams.scale.log2().round().exp2(), qparams.scale)
    if grid.symmetric:
        assert not qparams.zero_point.any()


def test_the_exact_step_of_each_kind() -> None:
    ends = Bounds.of(-1.0, 2.0)
    assert project(ends, IntGrid(8)).scale.item() == np.float32(3 / 255)
    assert project(ends, IntGrid(8)).zero_point.item() == 85
    assert project(ends, IntGrid(8, signed=True)).zero_point.item() == -43
    assert project(ends, IntGrid(8, signed=True, symmetric=True)).scale.item() == np.float32(2 / 127)
    far = Bounds.of(-2.0, 1.0)
    assert project(far, IntGrid(8, signed=True, symmetric=True)).scale.item() == 2 / 128
    assert project(far, IntGrid(8, signed=True, symmetric=True, narrow_range=True)).scale.item() == np.float32(2 / 127)
    assert project(ends, IntGrid(8, symmetric=True)).scale.item() == np.float32(2 / 255)
    assert project(ends, IntGrid(8, signed=True, symmetric=True, power_of_two=True)).scale.item() == 2**-5
    positive = project(Bounds.of(1.0, 4.0), IntGrid(2, float_zero_point=True))
    assert (positive.scale.item(), positive.zero_point.item()) == (1.0, -1.0)


@given(GRIDS, st.sampled_from([0.0, 1e-30, -1e-30, 1e-13, 0.25, -3.0]))
def test_a_constant_tensor_gets_a_valid_grid(grid: IntGrid, constant: float) -> None:
    ends = torch.full((CHANNELS,) if grid.channel_axis == 0 else (), constant, dtype=torch.float64)
    qparams = project(Bounds.of(ends, ends), grid)
    assert qparams.scale.isfinite().all()
    assert (qparams.scale > 0).all()
    assert qparams.zero_point.isfinite().all()
    values = torch.full((CHANNELS, 2), constant)
    restored = dequantize(quantize(values, qparams), qparams)
    assert restored.isfinite().all()
    if not (grid.symmetric and not grid.signed and constant < 0):
        torch.testing.assert_close(restored, values, rtol=1e-6 if grid.float_zero_point else 0.51, atol=1e-12)


@given(grids_and_bounds(), VALUES)
def test_integers_are_in_range_and_monotonic(case: tuple[IntGrid, Bounds], values: Tensor) -> None:
    grid, bounds = case
    qparams = project(bounds, grid)
    rows = values.sort().values.expand(CHANNELS, -1)
    integers = quantize(rows, qparams)
    assert integers.dtype == torch.int32
    assert integers.min() >= grid.qmin
    assert integers.max() <= grid.qmax
    assert (integers.diff(dim=1) >= 0).all()


@given(grids_and_bounds())
def test_every_level_survives_a_round_trip(case: tuple[IntGrid, Bounds]) -> None:
    grid, bounds = case
    if grid.float_zero_point:
        return
    qparams = project(bounds, grid)
    levels = torch.arange(grid.qmin, grid.qmax + 1, dtype=torch.int32).expand(CHANNELS, -1)
    assert torch.equal(quantize(dequantize(levels, qparams), qparams), levels)


@given(grids_and_bounds(), VALUES)
def test_integers_match_float64(case: tuple[IntGrid, Bounds], values: Tensor) -> None:
    grid, bounds = case
    if grid.float_zero_point:
        return
    qparams = project(bounds, grid)
    integers = quantize(values.expand(CHANNELS, -1), qparams)
    real = dequantize(integers, qparams)
    for channel in range(CHANNELS):
        scale, zero_point = (float(p.expand(CHANNELS)[channel]) for p in (qparams.scale, qparams.zero_point))
        ratio = values.double().numpy() / scale
        from_tie = np.abs(ratio - np.floor(ratio) - 0.5)
        sure = from_tie > 1e-6 * (1 + np.abs(ratio))
        assert (integers[channel].numpy() == reference(ratio, zero_point, grid))[sure].all()
        restored = (integers[channel].double() - zero_point) * scale
        torch.testing.assert_close(real[channel].double(), restored, rtol=1e-6, atol=0)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_each_channel_has_its_own_parameters(axis: int) -> None:
    grid = IntGrid(8, signed=True, symmetric=True, narrow_range=True, channel_axis=axis)
    values = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0))
    rows = values.movedim(axis, 0).flatten(1)
    qparams = project(Bounds.of(rows.amin(1), rows.amax(1)), grid)
    together = dequantize(quantize(values, qparams), qparams).movedim(axis, 0)
    for channel in range(len(rows)):
        ends = Bounds.of(rows[channel].min(), rows[channel].max())
        alone = project(ends, replace(grid, channel_axis=None))
        one = values.movedim(axis, 0)[channel]
        assert torch.equal(together[channel], dequantize(quantize(one, alone), alone))


def test_bounds_are_detached_float64() -> None:
    bounds = Bounds.of(torch.tensor(1.0, requires_grad=True), 2.0)
    assert bounds.lower.dtype == torch.float64
    assert not bounds.lower.requires_grad
