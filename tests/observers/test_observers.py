import pickle
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from srptq_plugin.errors import SrptqError
from srptq_plugin.observers.dbdc import DBDCObserver
from srptq_plugin.observers.entropy import EntropyObserver
from srptq_plugin.observers.minmax import MinMaxObserver
from srptq_plugin.observers.mse import MSEObserver
from srptq_plugin.observers.percentile import PercentileObserver
from srptq_plugin.quantization.grid import Bounds, IntGrid, project
from srptq_plugin.quantization.observer import Observer
from srptq_plugin.utils.options import Options

Make = Callable[..., Observer]
OBSERVERS: dict[str, Make] = {
    "dbdc": partial(DBDCObserver, bins=256, ratio=0.02),
    "auto": partial(DBDCObserver, bins=256),
    "minmax": MinMaxObserver,
    "percentile": partial(PercentileObserver, percentile=2),
    "mse": partial(MSEObserver, bins=256, steps=20),
    "entropy": partial(EntropyObserver, bins=256, steps=20),
}
GRIDS = [
    IntGrid(4),
    IntGrid(8, signed=True, symmetric=True, narrow_range=True),
    IntGrid(8, signed=True, power_of_two=True),
    IntGrid(6, float_zero_point=True),
]
FLOATS = st.one_of(st.just(0.0), st.floats(-1e6, 1e6, width=32), st.floats(-1, 1, width=32))
BATCH = st.lists(FLOATS, min_size=1, max_size=40)
BATCHES = st.lists(BATCH, min_size=2, max_size=5)
every_observer = pytest.mark.parametrize("make", OBSERVERS.values(), ids=OBSERVERS.keys())


def observed(make: Make, batches: Sequence[Tensor], grid: IntGrid = GRIDS[0], **options: Any) -> Observer:
    observer = make(grid, **options)
    for batch in batches:
        observer.update(batch)
    return observer


def tailed(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) ** 3 - 0.5


def same(left: Bounds, right: Bounds, rtol: float = 0.0) -> bool:
    pairs = ((left.lower, right.lower), (left.upper, right.upper))
    return all(torch.allclose(a, b, rtol=rtol, atol=0) for a, b in pairs)


@every_observer
@given(batches=BATCHES, grid=st.sampled_from(GRIDS))
@settings(max_examples=25, deadline=None)
def test_bounds_lie_inside_the_extremes(make: Make, batches: list[list[float]], grid: IntGrid) -> None:
    bounds = observed(make, [torch.tensor(batch) for batch in batches], grid).bounds()
    everything = torch.tensor([value for batch in batches for value in batch]).double()
    slack = 1e-12 * everything.abs().max()
    assert everything.min() - slack <= bounds.lower <= bounds.upper + slack
    assert bounds.upper <= everything.max() + slack
    assert torch.isfinite(project(bounds, grid).scale)


@every_observer
@given(batches=BATCHES, data=st.data())
@settings(max_examples=25, deadline=None)
def test_merged_observers_equal_a_single_observer(make: Make, batches: list[list[float]], data: st.DataObject) -> None:
    tensors = [torch.tensor(batch) for batch in batches]
    shuffled = data.draw(st.permutations(tensors))
    cut = data.draw(st.integers(0, len(tensors)))
    merged, rest = observed(make, shuffled[:cut]), observed(make, shuffled[cut:])
    merged.merge(pickle.loads(pickle.dumps(rest)))  # noqa: S301  as between processes
    atol = 1e-12 * max(tensor.abs().max().item() for tensor in tensors)
    actual, expected = merged.bounds(), observed(make, tensors).bounds()
    torch.testing.assert_close([actual.lower, actual.upper], [expected.lower, expected.upper], rtol=0, atol=atol)


@every_observer
def test_tensors_of_a_batch_equal_their_concatenation(make: Make) -> None:
    tensors = [tailed(seed, 300 + seed) * (seed + 1) for seed in range(4)]
    batches = [torch.cat(tensors[:2]), torch.cat(tensors[2:])]
    assert same(observed(make, tensors, tensors_per_batch=2).bounds(), observed(make, batches).bounds())


@every_observer
def test_the_last_batch_may_be_short(make: Make) -> None:
    tensors = [tailed(seed, 500) * (seed + 1) for seed in range(3)]
    batches = [torch.cat(tensors[:2]), tensors[2]]
    assert same(observed(make, tensors, tensors_per_batch=2).bounds(), observed(make, batches).bounds())


@every_observer
def test_a_network_working_in_place_changes_nothing(make: Make) -> None:
    first, second = tailed(0, 400), tailed(1, 400)
    expected = observed(make, [first, second], tensors_per_batch=2).bounds()
    changing = first.clone()
    observer = observed(make, [changing], tensors_per_batch=2)
    changing.relu_()
    observer.update(second)
    assert same(observer.bounds(), expected)


@every_observer
@pytest.mark.parametrize("axis", [0, 1])
def test_channels_are_observed_independently(make: Make, axis: int) -> None:
    batches = [tailed(seed, 3, 3, 40, 5) * torch.tensor([1.0, 5.0, 0.0]).view(3, 1, 1, 1) for seed in range(2)]
    batches = [batch.transpose(0, axis) for batch in batches]
    bounds = observed(make, batches, IntGrid(4, channel_axis=axis)).bounds()
    options: dict[str, Any] = {"bins": 256} if "bins" in getattr(make, "keywords", {}) else {}
    for channel in range(3):
        alone = observed(make, [batch.select(axis, channel) for batch in batches], **options).bounds()
        assert same(Bounds(bounds.lower[channel], bounds.upper[channel]), alone, rtol=1e-12)


@every_observer
def test_bounds_are_float64_without_gradient(make: Make) -> None:
    values = tailed(0, 4, 100).requires_grad_()
    scalar, channels = (observed(make, [values], IntGrid(8, channel_axis=axis)).bounds() for axis in (None, 0))
    ends = [scalar.lower, scalar.upper, channels.lower, channels.upper]
    assert [end.shape for end in ends] == [(), (), (4,), (4,)]
    assert all(end.dtype == torch.float64 and not end.requires_grad for end in ends)


@every_observer
@pytest.mark.parametrize("wrong", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("axis", [None, 0])
def test_nan_and_infinity_name_the_batch(make: Make, wrong: float, axis: int | None) -> None:
    observer = observed(
        make, [tailed(seed, 2, 50) for seed in range(4)], IntGrid(8, channel_axis=axis), tensors_per_batch=2
    )
    values = tailed(5, 2, 50)
    values[1, 7] = wrong
    with pytest.raises(SrptqError, match=r"^batch 3: NaN or infinity in the tensor$"):
        observer.update(values)


@every_observer
def test_bounds_without_batches_are_refused(make: Make) -> None:
    observer = make(GRIDS[0])
    observer.merge(make(GRIDS[0]))
    with pytest.raises(SrptqError, match="no batch was observed"):
        observer.bounds()
    with pytest.raises(SrptqError, match="batch 1: the tensor is empty"):
        observer.update(torch.empty(0, 3))


@every_observer
def test_a_batch_is_released(make: Make) -> None:
    values = tailed(0, 1000)
    reference = weakref.ref(values)
    observer = observed(make, [values])
    del values
    assert reference() is None
    assert observer.bounds().upper > 0


@every_observer
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_float_is_read_as_float32(make: Make, dtype: torch.dtype) -> None:
    values = tailed(0, 1000).to(dtype)
    assert same(observed(make, [values]).bounds(), observed(make, [values.float()]).bounds())


def test_the_number_of_channels_cannot_change() -> None:
    observer = observed(MinMaxObserver, [torch.ones(3, 2)], IntGrid(8, channel_axis=0))
    with pytest.raises(SrptqError, match="batch 2: 4 channels where earlier tensors had 3"):
        observer.update(torch.ones(4, 2))
    with pytest.raises(SrptqError, match="4 channels"):
        observer.merge(observed(MinMaxObserver, [torch.ones(4, 2)], IntGrid(8, channel_axis=0)))


@pytest.mark.parametrize(
    "other",
    [MinMaxObserver(IntGrid(4)), DBDCObserver(IntGrid(8)), PercentileObserver(IntGrid(8), percentile=1)],
)
def test_merging_other_kinds_or_options_is_refused(other: Observer) -> None:
    observer: Observer = PercentileObserver(IntGrid(8))
    with pytest.raises(SrptqError, match="only another PercentileObserver"):
        observer.merge(other)


class ScaledOptions(Options):
    factor: float = 1.0


class Scaled(MinMaxObserver):
    """An observer with an option that says nothing about merging."""

    options_type = ScaledOptions


class Halved(Scaled):
    """An observer that inherits its constructor."""


@pytest.mark.parametrize("kind", [Scaled, Halved])
def test_settings_are_recorded_and_compared(kind: type[Scaled]) -> None:
    observer = kind(IntGrid(8))
    same = kind(IntGrid(8), factor=1.0, tensors_per_batch=2)
    halved = kind(IntGrid(8), factor=0.5)
    assert halved.options == ScaledOptions(factor=0.5)
    observer.merge(pickle.loads(pickle.dumps(same)))  # noqa: S301  as between processes
    for different in (halved, kind(IntGrid(4))):
        with pytest.raises(SrptqError, match="same grid and options"):
            observer.merge(different)


def test_batch_numbers_continue_after_a_merge() -> None:
    observer = observed(MinMaxObserver, [torch.ones(2)])
    observer.merge(observed(MinMaxObserver, [torch.ones(2)] * 2))
    with pytest.raises(SrptqError, match="batch 4"):
        observer.update(torch.tensor([torch.nan]))


def test_tensors_per_batch_is_at_least_one() -> None:
    with pytest.raises(SrptqError, match="tensors_per_batch: 0"):
        MinMaxObserver(IntGrid(8), tensors_per_batch=0)


@pytest.mark.parametrize("percentile", [-0.1, 50, float("nan")])
def test_percentile_is_less_than_half(percentile: float) -> None:
    with pytest.raises(SrptqError, match="percentile"):
        PercentileObserver(IntGrid(8), percentile=percentile)


@pytest.mark.parametrize(("percentile", "beyond"), [(0, 0), (0.1, 2), (5, 119), (49.99, 1199)])
def test_percentile_is_an_order_statistic(percentile: float, beyond: int) -> None:
    values = tailed(0, 2399)
    bounds = observed(PercentileObserver, [values], percentile=percentile).bounds()
    ranked = sorted(values.tolist())
    assert (bounds.lower.item(), bounds.upper.item()) == (ranked[beyond], ranked[-1 - beyond])


def test_percentile_averages_over_batches() -> None:
    bounds = observed(PercentileObserver, [torch.tensor([0.0, top]) for top in (1.0, 2.0, 6.0)]).bounds()
    assert bounds.upper.item() == pytest.approx(3.0, rel=1e-15)


def test_minmax_returns_the_extremes() -> None:
    batches = [tailed(seed, 100) for seed in range(3)]
    bounds = observed(MinMaxObserver, batches).bounds()
    everything = torch.cat(batches).tolist()
    assert (bounds.lower.item(), bounds.upper.item()) == (min(everything), max(everything))
