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
each_observer = pytest.mark.parametrize("make", OBSERVERS.values(), ids=OBSERVERS.keys())


def seen(make: Make, batches: Sequence[Tensor], grid: IntGrid = GRIDS[0], **options: Any) -> Observer:
    observer = make(grid, **options)
    for batch in batches:
        observer.update(batch)
    return observer


def tailed(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) ** 3 - 0.5


def same(left: Bounds, right: Bounds, rtol: float = 0.0) -> bool:
    pairs = ((left.lower, right.lower), (left.upper, right.upper))
    return all(torch.allclose(a, b, rtol=rtol, atol=0) for a, b in pairs)


@each_observer
@given(batches=BATCHES, grid=st.sampled_from(GRIDS))
@settings(max_examples=25, deadline=None)
def test_bounds_are_usable_and_inside_the_extremes(make: Make, batches: list[list[float]], grid: IntGrid) -> None:
    bounds = seen(make, [torch.tensor(batch) for batch in batches], grid).bounds()
    everything = torch.tensor([value for batch in batches for value in batch]).double()
    slack = 1e-12 * everything.abs().max()
    assert everything.min() - slack <= bounds.lower <= bounds.upper + slack
    assert bounds.upper <= everything.max() + slack
    assert torch.isfinite(project(bounds, grid).scale)


@each_observer
@given(batches=BATCHES, data=st.data())
@settings(max_examples=25, deadline=None)
def test_merged_observers_know_what_one_would(make: Make, batches: list[list[float]], data: st.DataObject) -> None:
    tensors = [torch.tensor(batch) for batch in batches]
    shuffled = data.draw(st.permutations(tensors))
    cut = data.draw(st.integers(0, len(tensors)))
    merged, rest = seen(make, shuffled[:cut]), seen(make, shuffled[cut:])
    merged.merge(pickle.loads(pickle.dumps(rest)))  # noqa: S301  as between processes
    atol = 1e-12 * max(tensor.abs().max().item() for tensor in tensors)
    found, expected = merged.bounds(), seen(make, tensors).bounds()
    torch.testing.assert_close([found.lower, found.upper], [expected.lower, expected.upper], rtol=0, atol=atol)


@each_observer
def test_places_are_as_good_as_one_tensor(make: Make) -> None:
    tensors = [tailed(seed, 300 + seed) * (seed + 1) for seed in range(4)]
    apart = seen(make, tensors, tensors_per_batch=2).bounds()
    together = [torch.cat(tensors[:2]), torch.cat(tensors[2:])]
    assert same(apart, seen(make, together).bounds())


@each_observer
def test_a_last_batch_may_lack_places(make: Make) -> None:
    tensors = [tailed(seed, 500) * (seed + 1) for seed in range(3)]
    assert same(
        seen(make, tensors, tensors_per_batch=2).bounds(), seen(make, [torch.cat(tensors[:2]), tensors[2]]).bounds()
    )


@each_observer
def test_a_network_working_in_place_changes_nothing(make: Make) -> None:
    first, second = tailed(0, 400), tailed(1, 400)
    expected = seen(make, [first, second], tensors_per_batch=2).bounds()
    observer = seen(make, [given := first.clone()], tensors_per_batch=2)
    given.relu_()
    observer.update(second)
    assert same(observer.bounds(), expected)


@each_observer
@pytest.mark.parametrize("axis", [0, 1])
def test_channels_are_observed_one_by_one(make: Make, axis: int) -> None:
    batches = [tailed(seed, 3, 3, 40, 5) * torch.tensor([1.0, 5.0, 0.0]).view(3, 1, 1, 1) for seed in range(2)]
    batches = [batch.transpose(0, axis) for batch in batches]
    bounds = seen(make, batches, IntGrid(4, channel_axis=axis)).bounds()
    options: dict[str, Any] = {"bins": 256} if "bins" in getattr(make, "keywords", {}) else {}
    for channel in range(3):
        alone = seen(make, [batch.select(axis, channel) for batch in batches], **options).bounds()
        assert same(Bounds(bounds.lower[channel], bounds.upper[channel]), alone, rtol=1e-12)


@each_observer
def test_bounds_are_float64_without_gradient(make: Make) -> None:
    values = tailed(0, 4, 100).requires_grad_()
    scalar, channels = (seen(make, [values], IntGrid(8, channel_axis=axis)).bounds() for axis in (None, 0))
    ends = [scalar.lower, scalar.upper, channels.lower, channels.upper]
    assert [end.shape for end in ends] == [(), (), (4,), (4,)]
    assert all(end.dtype == torch.float64 and not end.requires_grad for end in ends)


@each_observer
@pytest.mark.parametrize("wrong", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("axis", [None, 0])
def test_nan_and_infinity_are_refused_with_the_batch(make: Make, wrong: float, axis: int | None) -> None:
    observer = seen(
        make, [tailed(seed, 2, 50) for seed in range(4)], IntGrid(8, channel_axis=axis), tensors_per_batch=2
    )
    values = tailed(5, 2, 50)
    values[1, 7] = wrong
    with pytest.raises(SrptqError, match=r"^batch 3: NaN or infinity in the tensor$"):
        observer.update(values)


@each_observer
def test_nothing_seen_is_refused(make: Make) -> None:
    observer = make(GRIDS[0])
    observer.merge(make(GRIDS[0]))
    with pytest.raises(SrptqError, match="no batch was observed"):
        observer.bounds()
    with pytest.raises(SrptqError, match="batch 1: the tensor is empty"):
        observer.update(torch.empty(0, 3))


@each_observer
def test_a_batch_is_not_kept(make: Make) -> None:
    values = tailed(0, 1000)
    gone = weakref.ref(values)
    observer = seen(make, [values])
    del values
    assert gone() is None
    assert observer.bounds().upper > 0


@each_observer
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_float_is_read_as_float32(make: Make, dtype: torch.dtype) -> None:
    values = tailed(0, 1000).to(dtype)
    assert same(seen(make, [values]).bounds(), seen(make, [values.float()]).bounds())


def test_the_number_of_channels_stays() -> None:
    observer = seen(MinMaxObserver, [torch.ones(3, 2)], IntGrid(8, channel_axis=0))
    with pytest.raises(SrptqError, match="batch 2: 4 channels where earlier tensors had 3"):
        observer.update(torch.ones(4, 2))
    with pytest.raises(SrptqError, match="4 channels"):
        observer.merge(seen(MinMaxObserver, [torch.ones(4, 2)], IntGrid(8, channel_axis=0)))


@pytest.mark.parametrize(
    "other",
    [MinMaxObserver(IntGrid(4)), DBDCObserver(IntGrid(8)), PercentileObserver(IntGrid(8), percentile=1)],
)
def test_only_like_is_merged_with_like(other: Observer) -> None:
    mine: Observer = PercentileObserver(IntGrid(8))
    with pytest.raises(SrptqError, match="only another PercentileObserver"):
        mine.merge(other)


class Scaled(MinMaxObserver):
    """Somebody's observer, which does nothing about merging."""

    def __init__(self, grid: IntGrid, *, factor: float = 1.0, tensors_per_batch: int = 1) -> None:
        super().__init__(grid, tensors_per_batch=tensors_per_batch)
        self.factor = factor


class Halved(Scaled):
    """An observer whose constructor is another's."""


@pytest.mark.parametrize("kind", [Scaled, Halved])
def test_options_are_noted_without_being_told(kind: type[Scaled]) -> None:
    mine, same, other = (
        kind(IntGrid(8)),
        kind(IntGrid(8), factor=1.0, tensors_per_batch=2),
        kind(IntGrid(8), factor=0.5),
    )
    assert other.settings == {"factor": 0.5}
    mine.merge(pickle.loads(pickle.dumps(same)))  # noqa: S301  as between processes
    for unlike in (other, kind(IntGrid(4))):
        with pytest.raises(SrptqError, match="same grid and options"):
            mine.merge(unlike)


def test_batches_are_numbered_on_after_a_merge() -> None:
    observer = seen(MinMaxObserver, [torch.ones(2)])
    observer.merge(seen(MinMaxObserver, [torch.ones(2)] * 2))
    with pytest.raises(SrptqError, match="batch 4"):
        observer.update(torch.tensor([torch.nan]))


def test_places_are_counted_from_one() -> None:
    with pytest.raises(SrptqError, match="tensors_per_batch: 0"):
        MinMaxObserver(IntGrid(8), tensors_per_batch=0)


@pytest.mark.parametrize("percentile", [-0.1, 50, float("nan")])
def test_a_percentile_is_less_than_half(percentile: float) -> None:
    with pytest.raises(SrptqError, match="percentile"):
        PercentileObserver(IntGrid(8), percentile=percentile)


@pytest.mark.parametrize(("percentile", "beyond"), [(0, 0), (0.1, 2), (5, 119), (49.99, 1199)])
def test_percentile_is_an_order_statistic(percentile: float, beyond: int) -> None:
    values = tailed(0, 2399)
    bounds = seen(PercentileObserver, [values], percentile=percentile).bounds()
    ranked = sorted(values.tolist())
    assert (bounds.lower.item(), bounds.upper.item()) == (ranked[beyond], ranked[-1 - beyond])


def test_percentile_averages_over_batches() -> None:
    bounds = seen(PercentileObserver, [torch.tensor([0.0, top]) for top in (1.0, 2.0, 6.0)]).bounds()
    assert bounds.upper.item() == pytest.approx(3.0, rel=1e-15)


def test_minmax_is_the_extremes_of_everything() -> None:
    batches = [tailed(seed, 100) for seed in range(3)]
    bounds = seen(MinMaxObserver, batches).bounds()
    everything = torch.cat(batches).tolist()
    assert (bounds.lower.item(), bounds.upper.item()) == (min(everything), max(everything))
