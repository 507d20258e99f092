"""The drop as a function of noise, and the noise to aim at."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from srptq_plugin.accuracy.drop_model import DropModel, Point, next_share

PSNRS = st.lists(st.floats(20, 45), min_size=1, max_size=5)


@given(PSNRS, st.floats(0.01, 2), st.floats(0, 1.5))
def test_the_share_of_a_drop_is_found(plain: list[float], lost: float, share: float) -> None:
    model = DropModel.of(plain, [value - lost for value in plain])
    assert model.drop(0) == pytest.approx(0, abs=1e-9)
    assert model.drop(1) == pytest.approx(lost)
    assert model.share(model.drop(share)) == pytest.approx(share, abs=1e-6)


def test_an_image_that_gains_offsets_one_that_loses() -> None:
    model = DropModel.of([30, 30], [30.1, 29.7])
    assert model.drop(1) == pytest.approx(0.1)
    assert 0 < model.drop(0.5) < model.drop(1)


@given(st.floats(0.05, 0.95), st.floats(0, 0.4), st.floats(0.05, 0.95))
def test_the_next_plan_lies_between_measured_ones(allowed: float, floor: float, held: float) -> None:
    # The network makes `floor` more noise than expected wherever it is measured.
    points = [Point(1, 1), Point(held, min(held, allowed))]
    assert held < next_share(points, allowed) < 1
    misses = [Point(1, 1), Point(0.5, allowed + floor + 0.01)]
    assert next_share(misses, allowed) < 0.5


def test_further_misses_lead_to_much_less_noise() -> None:
    points, allowed = [Point(1, 1)], 0.5
    while len(points) < 6:
        share = next_share(points, allowed)
        points.append(Point(share, 0.55))
    assert points[-1].expected < 0.1
