"""Percentile: each batch without a fixed share of its values at either end."""

from collections.abc import Sequence

import torch

from srptq_plugin.errors import SrptqError
from srptq_plugin.observers.base import Average, BatchObserver, TensorRows
from srptq_plugin.quantization.grid import Bounds, IntGrid


class PercentileObserver(BatchObserver[Average]):
    """The values that leave `percentile` per cent beyond them at each end, averaged over the batches.

    >>> observer = PercentileObserver(IntGrid(8), percentile=10)
    >>> observer.update(torch.arange(100))
    >>> observer.bounds()
    Bounds(10, 89)
    """

    def __init__(self, grid: IntGrid, *, percentile: float = 0.1, tensors_per_batch: int = 1) -> None:
        super().__init__(grid, tensors_per_batch=tensors_per_batch)
        if not 0 <= percentile < 50:  # noqa: PLR2004  half from each end is all
            raise SrptqError(f"percentile: {percentile}; give a share of 0 or more and less than 50 per cent")
        self.percentile = percentile

    def measure(self, batch: Sequence[TensorRows]) -> Average:
        """The two order statistics of each row."""
        rows = torch.cat([part.rows for part in batch], 1) if len(batch) > 1 else batch[0].rows
        size = rows.shape[1]
        beyond = int(size * self.percentile / 100)
        ends = [rows.kthvalue(rank, dim=1).values for rank in (beyond + 1, size - beyond)]
        return Average(torch.stack(ends).cpu().double())

    def row_bounds(self, seen: Average) -> Bounds:
        """Their averages."""
        return Bounds(*seen.value)
