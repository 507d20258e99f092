"""The bounds from which PAMS and FQSR start, on all grids that targets have."""

from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from srptq_plugin.qat.fqsr import FqsrFakeQuantize
from srptq_plugin.qat.pams import PamsFakeQuantize
from srptq_plugin.qat.symmetric import MirroredFakeQuantize
from srptq_plugin.quantization.grid import Bounds, IntGrid

KINDS = PamsFakeQuantize, FqsrFakeQuantize
GRIDS = (
    *(IntGrid(bits, signed, symmetric=True) for bits, signed in product((2, 3, 4, 8, 16), (True, False))),
    *(IntGrid(bits, signed) for bits, signed in product((1, 2, 3, 4, 8, 16), (True, False))),
    *(IntGrid(bits, signed=True, symmetric=True, narrow_range=True, power_of_two=True) for bits in (4, 8)),
    *(IntGrid(bits, float_zero_point=True) for bits in (1, 4, 8)),
    IntGrid(4, signed=True, symmetric=True, narrow_range=True),
    IntGrid(8, power_of_two=True),
)


def on_every_grid(test: Callable[..., None]) -> Any:
    """Run a test for both kinds, on all grids, from any bounds."""
    drawn = given(st.floats(-3, 0.1), st.floats(0.2, 3.0))(test)
    return pytest.mark.parametrize("kind", KINDS)(pytest.mark.parametrize("grid", GRIDS, ids=str)(drawn))


@on_every_grid
def test_own_bounds_restore_the_scale(
    kind: type[MirroredFakeQuantize], grid: IntGrid, lower: float, upper: float
) -> None:
    one, other = kind("x", grid), kind("x", grid)
    one.set_bounds(Bounds.of(lower, upper))
    first = one.qparams()
    for bounds in (first.bounds, one.bounds):
        other.set_bounds(bounds)
        again = other.qparams()
        assert (again.scale.item(), again.zero_point.item()) == (first.scale.item(), first.zero_point.item())


@on_every_grid
def test_other_bounds_set_the_reach(
    kind: type[MirroredFakeQuantize], grid: IntGrid, lower: float, upper: float
) -> None:
    made = kind("x", grid)
    made.set_bounds(Bounds.of(lower, upper))
    exported, far = made.qparams().bounds, max(-lower, upper)
    assume((exported.lower.item(), exported.upper.item()) != (lower, upper))
    mirrored = lower < 0 or kind is PamsFakeQuantize
    finest = far / grid.qmax if grid.symmetric else (2 if mirrored else 1) * far / grid.steps
    widest = 2 if grid.power_of_two else 1
    assert finest * (1 - 1e-6) <= made.qparams().scale.item() <= finest * widest * (1 + 1e-6)


def test_channels_start_independently() -> None:
    grid = IntGrid(4, channel_axis=0)
    made = FqsrFakeQuantize("weight", grid)
    first = Bounds.of(torch.tensor([-1.0, 0.0, -8.0]), torch.tensor([3.0, 2.0, 7.0]))
    made.set_bounds(first)
    assert made.bounds.upper.tolist() == pytest.approx([3.0, 2.0, 7.5])
    assert made.bounds.lower.tolist() == pytest.approx([-3.0, 0.0, -7.5])
    scale = made.qparams().scale
    made.set_bounds(made.qparams().bounds)
    assert torch.equal(made.qparams().scale, scale)
