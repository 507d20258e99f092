"""DBDC against a transcription of the paper's Algorithm 1, line by line."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from srptq_plugin.errors import SrptqError
from srptq_plugin.observers.dbdc import DBDCObserver
from srptq_plugin.quantization.grid import IntGrid

BINS = 64
LETTER: dict[str, Any] = {"average": "ema", "start": "extremes", "overshoot": True}


def algorithm_1(batches: Sequence[Tensor], ratio: float, beta: float = 0.9) -> tuple[float, float]:
    """Return the bounds of one layer. Positions are numbers of bins, which add up exactly."""
    low_a, high_a = batches[0].min().item(), batches[0].max().item()
    for batch in batches:
        histogram = np.histogram(batch.double().numpy(), BINS)[0].tolist()
        low, high = batch.min().item(), batch.max().item()
        width, total = (high - low) / BINS, sum(histogram)
        left, right = 0, BINS - 1
        while sum(histogram[left : right + 1]) / total >= 1 - ratio:
            if histogram[left] < histogram[right]:
                left += 1
            else:
                right -= 1
        low_a = beta * low_a + (1 - beta) * (low + left * width)
        high_a = beta * high_a + (1 - beta) * (low + (right + 1) * width)
    return low_a, high_a


def drawn(seed: int, count: int = 4) -> list[Tensor]:
    """Draw batches of multiples of a power of two, over a power of two of bins, which every histogram bins alike."""
    rng = np.random.default_rng(seed)
    batches: list[Tensor] = []
    for _ in range(count):
        low, high = (-(2.0 ** rng.integers(3, 7)), 2.0 ** rng.integers(3, 7))
        steps = np.clip(np.round(rng.standard_t(2, 700) * 32) / 64, low, low + 2 * (high - low))
        span = 2.0 ** np.ceil(np.log2(steps.max() - low + 1))
        batches.append(torch.tensor([*steps, low, low + span], dtype=torch.float32))
    return batches


def observe(batches: Sequence[Tensor], **options: Any) -> DBDCObserver:
    observer = DBDCObserver(IntGrid(8), bins=BINS, **options)
    for batch in batches:
        observer.update(batch)
    return observer


def ends(observer: DBDCObserver) -> tuple[float, float]:
    bounds = observer.bounds()
    return bounds.lower.item(), bounds.upper.item()


@given(st.integers(0, 10_000), st.sampled_from([0.003, 0.01, 0.1, 0.5]))
def test_bounds_are_those_of_algorithm_1(seed: int, ratio: float) -> None:
    batches = drawn(seed)
    assert ends(observe(batches, ratio=ratio, **LETTER)) == pytest.approx(algorithm_1(batches, ratio), rel=1e-12)


@pytest.mark.parametrize("changed", [{"overshoot": False}, {"start": "clipped"}, {"momentum": 0.8}])
def test_every_line_of_algorithm_1_counts(changed: dict[str, Any]) -> None:
    batches = drawn(5)
    bounds = ends(observe(batches, ratio=0.1, **{**LETTER, **changed}))
    assert bounds != pytest.approx(algorithm_1(batches, 0.1), rel=1e-3)


def test_the_moving_average_keeps_nine_tenths() -> None:
    batches = [torch.tensor([0.0, top]) for top in (1.0, 2.0)]
    assert ends(observe(batches, ratio=0.0, average="ema"))[1] == pytest.approx(0.9 * 1.0 + 0.1 * 2.0, rel=1e-12)


def test_overshoot_drops_one_bin_more() -> None:
    values = torch.tensor([0.0] * 2 + [32.5] * 96 + [63.5, 64.0])
    assert ends(observe([values], ratio=0.02)) == (0.0, 33.0)
    assert ends(observe([values], ratio=0.02, overshoot=True)) == (1.0, 33.0)


def test_a_batch_merges_as_if_it_was_seen() -> None:
    batches = drawn(3)
    merged = observe(batches[:1], ratio=0.01, **LETTER)
    for batch in batches[1:]:
        merged.merge(observe([batch], ratio=0.01, **LETTER))
    assert ends(merged) == ends(observe(batches, ratio=0.01, **LETTER))


def test_every_offer_starts_from_extremes() -> None:
    batches = drawn(8)
    offers = observe(batches, ratio="auto", **LETTER).offers()
    alone = observe(batches, ratio=0.05, **LETTER)
    assert (offers[-1].lower.item(), offers[-1].upper.item()) == ends(alone)


def test_a_mean_has_no_start() -> None:
    with pytest.raises(SrptqError, match=r"start: 'extremes' is not allowed; give 'clipped', or set average to ema"):
        observe([], start="extremes")
