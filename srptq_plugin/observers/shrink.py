"""The search that the mse and entropy observers share: shrink both bounds together and keep the cheapest pair."""

from abc import abstractmethod
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from srptq_plugin.observers.base import BatchObserver, TensorRows
from srptq_plugin.observers.histogram import RunningHistogram
from srptq_plugin.observers.observer_options import SearchOptions
from srptq_plugin.quantization.grid import Bounds, IntGrid, QParams, project

BINS, CHANNEL_BINS = 4096, 1024
"""Bins of the histogram: of a whole tensor, and of each channel."""


class ShrinkSearch(BatchObserver[RunningHistogram]):
    """Shrink the extremes toward zero by the factor, out of `steps` equal ones up to 1, that costs least.

    `bins` is the size of the histogram. By default it is 4096, or 1024 for each channel.
    """

    options_type = SearchOptions

    def __init__(self, grid: IntGrid, *, tensors_per_batch: int = 1, **options: object) -> None:
        super().__init__(grid, tensors_per_batch=tensors_per_batch, **options)
        self.steps = self.options.steps
        self.bins = self.options.bins or (BINS if grid.channel_axis is None else CHANNEL_BINS)

    @abstractmethod
    def cost(self, histogram: RunningHistogram, qparams: QParams) -> Tensor:
        """Return the cost of each row, for `qparams` shaped [rows, 1]."""

    def measure(self, batch: Sequence[TensorRows]) -> RunningHistogram:
        """Return the histogram of the batch."""
        return RunningHistogram.of(batch, self.bins)

    def candidates(self, histogram: RunningHistogram) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield pairs of bounds shaped [2, rows], the widest first, each with its cost per row."""
        extremes = torch.stack([histogram.low, histogram.high])
        # Shrink toward the point of the range that is nearest to zero. A range without zero then keeps its near end.
        anchor = torch.zeros_like(histogram.low).clamp(histogram.low, histogram.high)
        for factor in torch.arange(self.steps, 0, -1, dtype=torch.float64) / self.steps:
            ends = torch.lerp(anchor, extremes, factor)
            yield ends, self.cost(histogram, project(Bounds(*ends[:, :, None]), self.row_grid))

    def row_bounds(self, state: RunningHistogram) -> Bounds:
        """Return the cheapest candidate of each row, and the widest of equally cheap ones."""
        ends, costs = zip(*self.candidates(state), strict=True)
        # argmin returns the first of equal costs, and the widest candidate comes first.
        best = torch.stack(costs).argmin(0).expand(1, 2, -1)
        return Bounds(*torch.stack(ends).gather(0, best)[0])
