"""Gradients of the projection and of rounding, against finite differences and formulas."""

from dataclasses import replace

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from srptq_plugin.quantization.grid import Bounds, IntGrid, project, round_through

ENDS = st.sampled_from(["lower", "upper"])


def derivative(grid: IntGrid, ends: tuple[float, float], end: str, of: str) -> float:
    """Differentiate the scale or the zero point by one of the bounds, with autograd."""
    lower = torch.tensor(ends[0], dtype=torch.float64, requires_grad=True)
    upper = torch.tensor(ends[1], dtype=torch.float64, requires_grad=True)
    output = getattr(project(Bounds(lower, upper), grid), of)
    by = lower if end == "lower" else upper
    return float(torch.autograd.grad(output, by, allow_unused=True, materialize_grads=True)[0])


def shifted(ends: tuple[float, float], end: str, step: float) -> tuple[float, float]:
    return (ends[0] + step, ends[1]) if end == "lower" else (ends[0], ends[1] + step)


SMOOTH = st.tuples(st.floats(-10, -0.5), st.floats(0.5, 10))
SLOPED = [
    IntGrid(8),
    IntGrid(8, signed=True),
    IntGrid(4, signed=True, symmetric=True, narrow_range=True),
    IntGrid(8, signed=True, symmetric=True),
    IntGrid(4, symmetric=True),
    IntGrid(4, float_zero_point=True),
]


@given(SMOOTH, ENDS, st.sampled_from(SLOPED))
def test_gradient_of_the_scale(ends: tuple[float, float], end: str, grid: IntGrid) -> None:
    step = 1e-2 * min(-ends[0], ends[1])
    signed = grid.symmetric and grid.signed
    assume(not signed or abs(ends[0] / grid.qmin - ends[1] / grid.qmax) * grid.qmax > 2 * step)
    above, below = (project(Bounds.of(*shifted(ends, end, by)), grid).scale.item() for by in (step, -step))
    slope = (above - below) / (2 * step)
    assert derivative(grid, ends, end, "scale") == pytest.approx(slope, rel=1e-3, abs=1e-6)


@given(SMOOTH, ENDS, st.sampled_from([IntGrid(8), IntGrid(4, signed=True)]))
def test_gradient_of_the_zero_point_ignores_rounding(ends: tuple[float, float], end: str, grid: IntGrid) -> None:
    def unrounded(step: float) -> float:
        low, high = shifted(ends, end, step)
        return grid.qmin - low * grid.steps / (high - low)

    slope = (unrounded(1e-4) - unrounded(-1e-4)) / 2e-4
    assert derivative(grid, ends, end, "zero_point") == pytest.approx(slope, rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("end", ["lower", "upper"])
def test_gradient_of_a_power_of_two_scale(end: str) -> None:
    plain = IntGrid(8)
    stretched = replace(plain, power_of_two=True)
    ratio = float(project(Bounds.of(-1.0, 2.0), stretched).scale) / (3 / 255)
    expected = ratio * derivative(plain, (-1.0, 2.0), end, "scale")
    assert derivative(stretched, (-1.0, 2.0), end, "scale") == pytest.approx(expected, rel=1e-5)


def test_a_lower_bound_at_zero_still_learns() -> None:
    assert derivative(IntGrid(8), (0.0, 1.0), "lower", "scale") == pytest.approx(-1 / 255)


def test_a_degenerate_range_has_no_gradient() -> None:
    assert derivative(IntGrid(8), (0.0, 0.0), "upper", "scale") == 0


def test_round_through_rounds_half_to_even() -> None:
    values = torch.tensor([-1.5, -0.5, 0.5, 1.5, 2.5, 0.3], requires_grad=True)
    rounded = round_through(values)
    assert rounded.tolist() == [-2.0, 0.0, 0.0, 2.0, 2.0, 0.0]
    rounded.sum().backward()  # pyright: ignore[reportUnknownMemberType]
    assert values.grad is not None
    assert values.grad.tolist() == [1.0] * 6
