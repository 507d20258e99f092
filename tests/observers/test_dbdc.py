from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from srptq_plugin.errors import SrptqError
from srptq_plugin.observers.dbdc import LADDER, DBDCObserver, dropped
from srptq_plugin.quantization.grid import Bounds, IntGrid, dequantize, project, quantize

BINS = 2048
BYTE = IntGrid(8)
UNIT = 2.0**-6
COUNTS = st.lists(st.one_of(st.integers(0, 3), st.integers(0, 10**9)), min_size=1, max_size=60).filter(any)
RATIOS = st.lists(st.floats(0, 0.999), min_size=1, max_size=5)
KINDS = ["normal", "long-tailed", "one-sided", "uniform"]


def clip(counts: Sequence[int], ratio: float) -> tuple[int, int]:
    """The definition, bin by bin."""
    below = above = gone = 0
    total = sum(counts)
    while True:
        lower, upper = counts[below], counts[len(counts) - 1 - above]
        if total - (gone + min(lower, upper)) < (1 - ratio) * total:
            return below, above
        gone += min(lower, upper)
        below, above = (below, above + 1) if upper <= lower else (below + 1, above)


def reference(values: Tensor, ratio: float) -> tuple[float, float]:
    """The bounds of one batch by NumPy's float64 histogram."""
    counts, edges = np.histogram(values.double().numpy(), BINS, (values.min().item(), values.max().item()))
    below, above = clip([int(count) for count in counts], ratio)
    return float(edges[below]), float(edges[BINS - above])


def sample(kind: str, seed: int, size: int = 5000) -> Tensor:
    """Multiples of a power of two over a power of two of bins: every histogram puts them in the same bin."""
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
    for each in values:
        observer.update(each)
    return observer


def ends(bounds: Bounds) -> tuple[float, float]:
    return bounds.lower.item(), bounds.upper.item()


@given(COUNTS, RATIOS)
def test_one_pass_drops_what_the_loop_drops(counts: list[int], ratios: list[float]) -> None:
    below, above = dropped(torch.tensor([counts], dtype=torch.float64), ratios)
    found = list(zip(below[:, 0].tolist(), above[:, 0].tolist(), strict=True))
    assert found == [clip(counts, ratio) for ratio in ratios]


@given(st.lists(st.integers(0, 2), min_size=8, max_size=8).filter(any), COUNTS.map(lambda counts: counts[:8]))
def test_rows_do_not_touch_each_other(first: list[int], second: list[int]) -> None:
    rows = [first, (second + [1] * 8)[:8]]
    below, above = dropped(torch.tensor(rows, dtype=torch.float64), [0.25])
    found = list(zip(below[0].tolist(), above[0].tolist(), strict=True))
    assert found == [clip(row, 0.25) for row in rows]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ratio", [0.0, 4e-5, 1e-3, 2e-2, 0.3])
def test_bounds_are_the_reference_to_the_last_bit(kind: str, ratio: float) -> None:
    batches = [sample(kind, seed) for seed in range(3)]
    expected = np.mean([reference(batch, ratio) for batch in batches], axis=0)
    assert ends(observed(batches, ratio=ratio).bounds()) == pytest.approx(tuple(expected), rel=1e-13)


@pytest.mark.parametrize("ratio", [1e-4, 1e-2])
def test_any_floats_are_at_most_a_bin_or_two_off(ratio: float) -> None:
    values = torch.from_numpy(np.random.default_rng(3).standard_t(3, 40000)).float()
    width = (values.max() - values.min()).item() / BINS
    assert ends(observed([values], ratio=ratio).bounds()) == pytest.approx(reference(values, ratio), abs=2 * width)


@pytest.mark.parametrize("value", [0.0, -3.5, 1e-30, 3e38])
@pytest.mark.parametrize("ratio", [0.01, "auto"])
def test_a_constant_is_its_own_range(value: float, ratio: float | str) -> None:
    values = torch.full((2, 3), value)
    assert ends(observed([values], ratio=ratio).bounds()) == (values[0, 0].item(),) * 2


def test_a_greater_ratio_clips_no_less() -> None:
    values = [sample("long-tailed", 1)]
    lower, upper = zip(*(ends(observed(values, ratio=ratio).bounds()) for ratio in LADDER), strict=True)
    assert list(lower) == sorted(lower)
    assert list(upper) == sorted(upper, reverse=True)
    assert upper[-1] - lower[-1] < 0.1 * (upper[0] - lower[0])


def stated_error(batch: Tensor, ratio: float, grid: IntGrid) -> float:
    """The definition of a ratio's expected error, bin by bin; this grid has zero as a level."""
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
def test_auto_takes_the_least_of_the_errors_it_states(kind: str, bits: int) -> None:
    grid, batches = IntGrid(bits), [sample(kind, seed) for seed in range(2)]
    auto = observed(batches, grid)
    expected = [float(np.mean([stated_error(batch, ratio, grid) for batch in batches])) for ratio in LADDER]
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
def test_stated_error_is_near_the_real_one(grid: IntGrid) -> None:
    values = torch.from_numpy(np.random.default_rng(1).normal(0.3, 1, 50000)).float()
    values[:20000] = 0
    observer = observed([values], grid)
    for ratio, error in zip(LADDER, observer.errors[:, 0].tolist(), strict=True):
        qparams = project(observed([values], grid, ratio=ratio).bounds(), grid)
        real = (dequantize(quantize(values, qparams), qparams) - values).double().square().mean().item()
        assert error == pytest.approx(real, rel=0.1)


def test_each_channel_chooses_for_itself() -> None:
    rng = np.random.default_rng(0)
    values = torch.from_numpy(np.stack([rng.uniform(-1, 1, 9000), rng.standard_t(2, 9000)]))
    together = observed([values], IntGrid(4, channel_axis=0)).chosen.tolist()
    assert together == [observed([channel], IntGrid(4)).chosen.item() for channel in values]
    assert together[0] != together[1]


@pytest.mark.parametrize(("bits", "ratio"), [(4, 4e-5), (6, 5e-5), (8, 1e-5)])
def test_paper_ratios_go_by_bits(bits: int, ratio: float) -> None:
    values = [sample("long-tailed", 0, 200000)]
    paper, number = (observed(values, IntGrid(bits), ratio=each).bounds() for each in ("paper", ratio))
    assert ends(paper) == ends(number)
    assert observed(values, IntGrid(5), ratio="paper").ratios == LADDER


def test_moving_average_starts_with_the_first_batch() -> None:
    batches = [torch.tensor([0.0, top]) for top in (1.0, 2.0, 4.0)]
    observer = observed(batches, ratio=0.0, average="ema", momentum=0.75)
    assert observer.bounds().upper.item() == 0.75 * (0.75 * 1 + 0.25 * 2) + 0.25 * 4


def test_moving_averages_merge_by_batches() -> None:
    options: dict[str, Any] = {"ratio": 0.0, "average": "ema", "momentum": 0.5}
    one, two = (observed([torch.tensor([0.0, top])] * count, **options) for top, count in ((1.0, 1), (3.0, 3)))
    one.merge(two)
    assert one.bounds().upper.item() == 2.5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ratio": 1.0}, "ratio: 1.0"),
        ({"ratio": -1e-9}, "ratio"),
        ({"ratio": float("nan")}, "ratio"),
        ({"ratio": "papr"}, "did you mean 'paper'"),
        ({"average": "median"}, "choices: ema, mean"),
        ({"momentum": 1.0}, "momentum: 1.0"),
        ({"bins": 0}, "bins: 0"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(SrptqError, match=message):
        observed([], **options)
