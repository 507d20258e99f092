"""Percentile: the extremes of each batch after cutting a fixed share of its values off both ends."""

from collections.abc import Sequence

import torch

from srptq_plugin.errors import SrptqError
from srptq_plugin.observers.base import Average, BatchObserver, TensorRows
from srptq_plugin.quantization.grid import Bounds, IntGrid


class PercentileObserver(BatchObserver[Average]):
    """The values with `percentile` percent of the batch beyond them at each end, averaged over batches.

    >>> observer = PercentileObserver(IntGrid(8), percentile=10)
    >>> observer.update(torch.arange(100))
    >>> observer.bounds()
    Bounds(10, 89)
    """

    def __init__(self, grid: IntGrid, *, percentile: float = 0.1, tensors_per_batch: int = 1) -> None:
        super().__init__(grid, tensors_per_batch=tensors_per_batch)
        if not 0 <= percentile < 50:  # noqa: PLR2004 - cutting half off each end leaves nothing
            raise SrptqError(f"percentile: {percentile}; give a percentage from 0 to less than 50")
        self.percentile = percentile

    def measure(self, batch: Sequence[TensorRows]) -> Average:
        """Return the two order statistics of each row, shaped [2, rows]."""
        rows = torch.cat([tensor.rows for tensor in batch], 1) if len(batch) > 1 else batch[0].rows
        size = rows.shape[1]
        beyond = int(size * self.percentile / 100)
        # kthvalue counts from 1. It selects in linear time, where a quantile would sort.
        ends = [rows.kthvalue(rank, dim=1).values for rank in (beyond + 1, size - beyond)]
        return Average(torch.stack(ends).cpu().double())

    def row_bounds(self, state: Average) -> Bounds:
        """Return the averaged order statistics as bounds."""
        return Bounds(*state.value)
