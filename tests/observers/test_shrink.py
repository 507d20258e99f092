import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from srptq_plugin.errors import SrptqError
from srptq_plugin.observers.base import TensorRows
from srptq_plugin.observers.entropy import SMALLEST_SHARE, EntropyObserver, divergence
from srptq_plugin.observers.histogram import RunningHistogram, bin_counts
from srptq_plugin.observers.mse import MSEObserver, squared_error
from srptq_plugin.quantization.grid import Bounds, IntGrid, QParams, dequantize, project, quantize

FLOATS = st.one_of(
    st.just(0.0),
    st.floats(-1e4, 1e4, width=32, allow_subnormal=False),
    st.floats(-1, 1, width=32, allow_subnormal=False),
)
VALUES = st.lists(FLOATS, min_size=1, max_size=50)
GRIDS = [IntGrid(4), IntGrid(6, signed=True, symmetric=True), IntGrid(4, float_zero_point=True)]


def histogram(*tensors: Tensor, bins: int = 64) -> RunningHistogram:
    return RunningHistogram.of([TensorRows.of(tensor, None) for tensor in tensors], bins)


def laplace(seed: int, size: int = 40000) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).laplace(0.2, 1, size)).float()


def column(lower: float, upper: float, grid: IntGrid) -> QParams:
    return project(Bounds.of(torch.tensor([[lower]]), torch.tensor([[upper]])), grid)


def test_counts_are_exact_beyond_float32() -> None:
    numbers = torch.zeros(1, 2**24 + 3)
    numbers[0, 0] = 1
    assert bin_counts(numbers, 2).tolist() == [[2.0**24 + 2, 1.0]]


@given(VALUES)
@settings(deadline=None)
def test_each_bin_counts_between_its_edges(values: list[float]) -> None:
    counted = histogram(torch.tensor(values))
    edges = counted.edges[0].tolist()
    expected = [sum(a <= value < b for value in values if value) for a, b in pairwise(edges)]
    assert counted.counts[0].tolist() == expected
    assert counted.total.item() == len(values)


@given(st.lists(VALUES, min_size=2, max_size=5), st.data())
@settings(deadline=None)
def test_a_growing_histogram_is_independent_of_order(batches: list[list[float]], data: st.DataObject) -> None:
    tensors = [torch.tensor(batch) for batch in batches]
    first, *rest = data.draw(st.permutations(tensors))
    grown = histogram(first)
    for tensor in rest:
        grown = grown.join(histogram(tensor))
    at_once = histogram(*tensors)
    for name in ("low", "high", "zeros", "exponent", "start", "counts"):
        assert torch.equal(getattr(grown, name), getattr(at_once, name)), name


def test_a_third_of_the_bins_is_filled() -> None:
    for top in np.linspace(0.3, 5, 50):
        counted = histogram(torch.linspace(-0.1, float(top), 5000))
        assert (counted.counts > 0).sum() > 64 / 3


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("shrink", [1.0, 0.5, 0.1])
def test_squared_error_equals_the_real_error(grid: IntGrid, shrink: float) -> None:
    values = laplace(0).clamp(min=-2)
    values[:9000] = 0
    qparams = column(-2 * shrink, values.max().item() * shrink, grid)
    real = (dequantize(quantize(values, qparams), qparams) - values).double().square().mean().item()
    assert squared_error(histogram(values, bins=4096), qparams).item() == pytest.approx(real, rel=5e-3)


@pytest.mark.parametrize("grid", GRIDS)
def test_mse_finds_the_best_shrink(grid: IntGrid) -> None:
    values = laplace(1)
    observer = MSEObserver(grid, steps=50)
    observer.update(values)

    def real(bounds: Bounds) -> float:
        qparams = project(bounds, grid)
        return (dequantize(quantize(values, qparams), qparams) - values).double().square().mean().item()

    low, high = values.min().double(), values.max().double()
    every = [real(Bounds(low * step / 50, high * step / 50)) for step in range(1, 51)]
    assert real(observer.bounds()) == pytest.approx(min(every), rel=5e-3)
    assert min(every) < 0.9 * every[-1]


def test_mse_of_small_channels_is_near_the_best() -> None:
    weights = torch.randn(8, 576, generator=torch.Generator().manual_seed(0))
    grid = IntGrid(4, signed=True, symmetric=True, narrow_range=True, channel_axis=0)
    observer = MSEObserver(grid)
    observer.update(weights)
    qparams = project(observer.bounds(), grid)
    error = (dequantize(quantize(weights, qparams), qparams) - weights).square().mean(1)
    tops = weights.abs().amax(1)
    grids = [project(Bounds.of(-tops * step / 100, tops * step / 100), grid) for step in range(1, 101)]
    errors = torch.stack([(dequantize(quantize(weights, grid), grid) - weights).square().mean(1) for grid in grids])
    assert (error <= 1.05 * errors.amin(0)).all()


def plain_divergence(counted: RunningHistogram, qparams: QParams) -> float:
    """Return the divergence of TensorRT's candidate distribution, bin by bin."""
    counts, edges = counted.counts[0].tolist(), counted.edges[0].tolist()
    lower, upper = qparams.bounds.lower.item(), qparams.bounds.upper.item()
    inside = [n for n in range(len(counts)) if edges[n + 1] > lower and edges[n] < upper]
    first, last = inside[0], inside[-1]
    clipped = counts[first : last + 1]
    clipped[0] += sum(counts[:first])
    clipped[-1] += sum(counts[last + 1 :])
    centers = torch.tensor([(edges[n] + edges[n + 1]) / 2 for n in inside])
    levels = quantize(centers[None], qparams)[0].tolist()
    model = [0.0] * len(inside)
    for level in set(levels):
        members = [n for n, other in enumerate(levels) if other == level and clipped[n]]
        for n in members:
            model[n] = sum(counts[first + member] for member in members) / len(members)
    return sum(
        p / sum(clipped) * math.log(p / sum(clipped) / max(q / sum(model), SMALLEST_SHARE))
        for p, q in zip(clipped, model, strict=True)
        if p
    )


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("shrink", [1.0, 0.6, 0.2])
def test_divergence_equals_the_plain_computation(grid: IntGrid, shrink: float) -> None:
    values = laplace(2, 3000)
    counted = histogram(values, bins=512)
    qparams = column(values.min().item() * shrink, values.max().item() * shrink, grid)
    assert divergence(counted, qparams).item() == pytest.approx(plain_divergence(counted, qparams), rel=1e-9, abs=1e-12)


def test_entropy_chooses_the_least_divergence() -> None:
    grid, values = IntGrid(4), laplace(3)
    observer = EntropyObserver(grid, steps=30, bins=1024)
    observer.update(values)
    low, high = values.min().item(), values.max().item()
    counted = histogram(values, bins=1024)
    every = [plain_divergence(counted, column(low * step / 30, high * step / 30, grid)) for step in range(1, 31)]
    best = 1 + int(np.argmin(every))
    assert observer.bounds().upper.item() == pytest.approx(high * best / 30, rel=1e-12)
    assert best < 30


@pytest.mark.parametrize("options", [{"steps": 0}, {"bins": 1}])
def test_bad_options_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(SrptqError, match=r"is not allowed; give a whole number from [12] to"):
        MSEObserver(IntGrid(8), **options)


@pytest.mark.parametrize("sign", [1, -1])
def test_one_sided_values_keep_their_near_end(sign: int) -> None:
    counted = histogram(sign * torch.linspace(2, 3, 100))
    ends = torch.stack(
        [ends for ends, _ in MSEObserver(IntGrid(4, float_zero_point=True), steps=10).candidates(counted)]
    )
    assert ends.abs().amin().item() == 2
    assert ends.abs().amax(1).flatten().tolist() == pytest.approx([2 + step / 10 for step in range(10, 0, -1)])
