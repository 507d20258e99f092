from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from srptq_plugin.errors import SrptqError
from srptq_plugin.observers.dbdc import LADDER, DBDCObserver, count_dropped
from srptq_plugin.quantization.grid import Bounds, IntGrid, dequantize, project, quantize

BINS = 2048
BYTE = IntGrid(8)
UNIT = 2.0**-6
COUNTS = st.lists(st.one_of(st.integers(0, 3), st.integers(0, 10**9)), min_size=1, max_size=60).filter(any)
RATIOS = st.lists(st.floats(0, 0.999), min_size=1, max_size=5)
KINDS = ["normal", "long-tailed", "one-sided", "uniform"]


def clip(counts: Sequence[int], ratio: float) -> tuple[int, int]:
    """Return the dropped bins by the paper's greedy loop, bin by bin."""
    below = above = gone = 0
    total = sum(counts)
    while True:
        lower, upper = counts[below], counts[len(counts) - 1 - above]
        if total - (gone + min(lower, upper)) < (1 - ratio) * total:
            return below, above
        gone += min(lower, upper)
        below, above = (below, above + 1) if upper <= lower else (below + 1, above)


def reference(values: Tensor, ratio: float) -> tuple[float, float]:
    """Return the bounds of one batch by NumPy's float64 histogram."""
    counts, edges = np.histogram(values.double().numpy(), BINS, (values.min().item(), values.max().item()))
    below, above = clip([int(count) for count in counts], ratio)
    return float(edges[below]), float(edges[BINS - above])


def sample(kind: str, seed: int, size: int = 5000) -> Tensor:
    """Draw multiples of a power of two, over a power of two of bins. Every histogram bins them alike."""
    rng = np.random.default_rng(seed)
    draws = {
        "normal": rng.normal(0, 700, size),
        "long-tailed": rng.standard_t(1.5, size) * 50,
        "one-sided": np.maximum(rng.laplace(0, 300, size), 0) - 4 * BINS,
        "uniform": rng.uniform(-4 * BINS, 4 * BINS, size),
    }
    low, high = -4 * BINS, 4 * BINS
    steps = np.concatenate([np.clip(np.round(draws[kind]), low, high), [low, high]])
    return torch.tensor(steps * UNIT, dtype=torch.float32)


def observed(values: Sequence[Tensor], grid: IntGrid = BYTE, **options: Any) -> DBDCObserver:
    observer = DBDCObserver(grid, **options)
    for tensor in values:
        observer.update(tensor)
    return observer


def ends(bounds: Bounds) -> tuple[float, float]:
    return bounds.lower.item(), bounds.upper.item()


@given(COUNTS, RATIOS)
def test_count_dropped_equals_the_greedy_loop(counts: list[int], ratios: list[float]) -> None:
    below, above = count_dropped(torch.tensor([counts], dtype=torch.float64), ratios)
    ends = zip(below[:, 0].tolist(), above[:, 0].tolist(), strict=True)
    assert list(ends) == [clip(counts, ratio) for ratio in ratios]


@given(st.lists(st.integers(0, 2), min_size=8, max_size=8).filter(any), COUNTS.map(lambda counts: counts[:8]))
def test_count_dropped_treats_rows_independently(first: list[int], second: list[int]) -> None:
    rows = [first, (second + [1] * 8)[:8]]
    below, above = count_dropped(torch.tensor(rows, dtype=torch.float64), [0.25])
    ends = zip(below[0].tolist(), above[0].tolist(), strict=True)
    assert list(ends) == [clip(row, 0.25) for row in rows]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ratio", [0.0, 4e-5, 1e-3, 2e-2, 0.3])
def test_bounds_equal_the_numpy_reference(kind: str, ratio: float) -> None:
    batches = [sample(kind, seed) for seed in range(3)]
    expected = np.mean([reference(batch, ratio) for batch in batches], axis=0)
    assert ends(observed(batches, ratio=ratio).bounds()) == pytest.approx(tuple(expected), rel=1e-13)


@pytest.mark.parametrize("ratio", [1e-4, 1e-2])
def test_any_floats_are_within_two_bins(ratio: float) -> None:
    values = torch.from_numpy(np.random.default_rng(3).standard_t(3, 40000)).float()
    width = (values.max() - values.min()).item() / BINS
    assert ends(observed([values], ratio=ratio).bounds()) == pytest.approx(reference(values, ratio), abs=2 * width)


@pytest.mark.parametrize("value", [0.0, -3.5, 1e-30, 3e38])
@pytest.mark.parametrize("ratio", [0.01, "auto"])
def test_a_constant_is_its_own_range(value: float, ratio: float | str) -> None:
    values = torch.full((2, 3), value)
    assert ends(observed([values], ratio=ratio).bounds()) == (values[0, 0].item(),) * 2


def test_a_larger_ratio_clips_at_least_as_much() -> None:
    values = [sample("long-tailed", 1)]
    lower, upper = zip(*(ends(observed(values, ratio=ratio).bounds()) for ratio in LADDER), strict=True)
    assert list(lower) == sorted(lower)
    assert list(upper) == sorted(upper, reverse=True)
    assert upper[-1] - lower[-1] < 0.1 * (upper[0] - lower[0])


def expected_error(batch: Tensor, ratio: float, grid: IntGrid) -> float:
    """Return the expected error of a ratio, bin by bin, on a grid with zero as a level."""
    qparams = project(observed([batch], ratio=ratio).bounds(), grid)
    lower, upper = ends(qparams.bounds)
    counts, edges = np.histogram(batch.double().numpy(), BINS)
    counts[np.searchsorted(edges, 0.0, side="right") - 1] -= int((batch == 0).sum())
    error = 0.0
    for count, left, right in zip(counts, edges[:-1], edges[1:], strict=True):
        center = float(left + right) / 2
        beyond = max(lower - center, center - upper, 0.0)
        error += float(count) * (beyond**2 if beyond else qparams.scale.item() ** 2 / 12)
    return error / batch.numel()


@pytest.mark.parametrize("kind", ["normal", "long-tailed"])
@pytest.mark.parametrize("bits", [4, 8])
def test_auto_chooses_the_least_expected_error(kind: str, bits: int) -> None:
    grid, batches = IntGrid(bits), [sample(kind, seed) for seed in range(2)]
    auto = observed(batches, grid)
    expected = [float(np.mean([expected_error(batch, ratio, grid) for batch in batches])) for ratio in LADDER]
    assert auto.errors[:, 0].tolist() == pytest.approx(expected, rel=1e-9)
    best = LADDER[int(np.argmin(expected))]
    assert ends(auto.bounds()) == ends(observed(batches, grid, ratio=best).bounds())


def test_auto_clips_more_at_fewer_bits() -> None:
    values = [torch.from_numpy(np.random.default_rng(0).laplace(0, 1, 100000))]
    four, six, eight = (observed(values, IntGrid(bits)).chosen.item() for bits in (4, 6, 8))
    assert four > six > eight


@pytest.mark.parametrize(
    "grid", [IntGrid(8), IntGrid(6, signed=True, symmetric=True), IntGrid(5, float_zero_point=True)]
)
def test_expected_error_is_near_the_real_error(grid: IntGrid) -> None:
    values = torch.from_numpy(np.random.default_rng(1).normal(0.3, 1, 50000)).float()
    values[:20000] = 0
    observer = observed([values], grid)
    for ratio, error in zip(LADDER, observer.errors[:, 0].tolist(), strict=True):
        qparams = project(observed([values], grid, ratio=ratio).bounds(), grid)
        real = (dequantize(quantize(values, qparams), qparams) - values).double().square().mean().item()
        assert error == pytest.approx(real, rel=0.1)


def test_each_channel_chooses_its_own_ratio() -> None:
    rng = np.random.default_rng(0)
    values = torch.from_numpy(np.stack([rng.uniform(-1, 1, 9000), rng.standard_t(2, 9000)]))
    chosen = observed([values], IntGrid(4, channel_axis=0)).chosen.tolist()
    assert chosen == [observed([channel], IntGrid(4)).chosen.item() for channel in values]
    assert chosen[0] != chosen[1]


@pytest.mark.parametrize(("bits", "ratio"), [(4, 4e-5), (6, 5e-5), (8, 1e-5)])
def test_paper_ratios_depend_on_bits(bits: int, ratio: float) -> None:
    values = [sample("long-tailed", 0, 200000)]
    paper = observed(values, IntGrid(bits), ratio="paper").bounds()
    assert ends(paper) == ends(observed(values, IntGrid(bits), ratio=ratio).bounds())
    assert observed(values, IntGrid(5), ratio="paper").ratios == LADDER


def test_moving_average_starts_with_the_first_batch() -> None:
    batches = [torch.tensor([0.0, top]) for top in (1.0, 2.0, 4.0)]
    observer = observed(batches, ratio=0.0, average="ema", momentum=0.75)
    assert observer.bounds().upper.item() == 0.75 * (0.75 * 1 + 0.25 * 2) + 0.25 * 4


def test_moving_averages_merge_weighted_by_batches() -> None:
    options: dict[str, Any] = {"ratio": 0.0, "average": "ema", "momentum": 0.5}
    observer = observed([torch.tensor([0.0, 1.0])], **options)
    observer.merge(observed([torch.tensor([0.0, 3.0])] * 3, **options))
    assert observer.bounds().upper.item() == 2.5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ratio": 1.0}, "ratio: 1.0"),
        ({"ratio": -1e-9}, "ratio"),
        ({"ratio": float("nan")}, "ratio"),
        ({"ratio": "papr"}, "ratio: 'papr' is not allowed; give .*'paper'"),
        ({"average": "median"}, "average: 'median' is not allowed; give 'mean' or 'ema'"),
        ({"momentum": 1.0}, "momentum: 1.0"),
        ({"bins": 0}, "bins: 0"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(SrptqError, match=message):
        observed([], **options)
