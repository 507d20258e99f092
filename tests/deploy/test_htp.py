"""Convolutions and sums as HTP computes them."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from srptq_plugin.deploy.htp import HtpConv, HtpSum
from srptq_plugin.quantization.grid import IntGrid, QParams

GRID = IntGrid(8)
STEPS = st.floats(2**-12, 0.25, width=32)
ZEROS = st.integers(0, 255)


def levels(scale: float, zero: int = 0) -> QParams:
    return QParams(torch.tensor(scale), torch.tensor(float(zero)), GRID)


@given(STEPS, ZEROS, st.integers(-(2**20), 2**20), st.floats(-1, 1, width=32) | st.none())
def test_a_convolution_is_off_by_what_it_cuts(step: float, zero: int, total: int, slope: float | None) -> None:
    """Half of the cut is at most a sixteenth of a level, and the multiplier's error on up to 8192 units an eighth."""
    image, weight, output = levels(step), levels(1.0), levels(1.0, zero)
    slopes = None if slope is None else torch.tensor(slope)
    computed = float(HtpConv(image, weight, output, slopes)(torch.tensor([[[[total * step]]]]).double()))
    exact = total * step * (1.0 if total >= 0 or slope is None else slope)
    inside = [min(max(value, -zero), GRID.qmax - zero) for value in (computed, exact)]
    assert abs(inside[0] - inside[1]) <= 1 / 16 + 1 / 8 + 2**-9


SIDES = st.tuples(STEPS, ZEROS, st.integers(0, 255))


@given(SIDES, SIDES, ZEROS, st.sampled_from([1, -1]))
def test_a_sum_is_within_a_level(
    one: tuple[float, int, int], two: tuple[float, int, int], zero: int, sign: int
) -> None:
    first, second = ((integer - origin) * step for step, origin, integer in (one, two))
    sums = HtpSum(levels(*one[:2]), levels(*two[:2]), levels(0.25, zero), sign)
    computed = float(sums(torch.tensor([first]).double(), torch.tensor([second]).double()))
    # Half a level by rounding, an eighth by the offset, and a share of each term by its multiplier.
    assert abs(computed - (first + sign * second)) / 0.25 <= 0.5 + 1 / 8 + 2**-4


def test_halves_round_up() -> None:
    halve = HtpSum(levels(1.0), levels(1.0), levels(2.0), 1)
    assert halve(torch.tensor([1.0, 3.0, 2.0]), torch.tensor([0.0, 0.0, 1.0])).tolist() == [2.0, 4.0, 4.0]
