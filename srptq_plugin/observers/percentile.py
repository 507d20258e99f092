"""Percentile: the extremes of each batch after cutting a fixed share of its values off both ends."""

from collections.abc import Sequence

import torch

from srptq_plugin.observers.base import Average, BatchObserver, TensorRows
from srptq_plugin.observers.observer_options import PercentileOptions
from srptq_plugin.quantization.grid import Bounds


class PercentileObserver(BatchObserver[Average]):
    """The values with `percentile` percent of the batch beyond them at each end, averaged over batches.

    >>> from srptq_plugin.quantization.grid import IntGrid
    >>> observer = PercentileObserver(IntGrid(8), percentile=10)
    >>> observer.update(torch.arange(100))
    >>> observer.bounds()
    Bounds(10, 89)
    """

    options_type = PercentileOptions

    def measure(self, batch: Sequence[TensorRows]) -> Average:
        """Return the two order statistics of each row, shaped [2, rows]."""
        rows = torch.cat([tensor.rows for tensor in batch], 1) if len(batch) > 1 else batch[0].rows
        size = rows.shape[1]
        beyond = int(size * self.options.percentile / 100)
        # kthvalue counts from 1. It selects in linear time, where a quantile would sort.
        ends = [rows.kthvalue(rank, dim=1).values for rank in (beyond + 1, size - beyond)]
        return Average(torch.stack(ends).cpu().double())

    def row_bounds(self, state: Average) -> Bounds:
        """Return the averaged order statistics as bounds."""
        return Bounds(*state.value)
