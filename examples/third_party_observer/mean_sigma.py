"""A complete third-party observer in one file: `k` standard deviations on either side of the mean."""

from collections.abc import Iterable, Sequence

import torch

from srptq_plugin.plugin_api import (
    Average,
    BatchObserver,
    Bounds,
    IntGrid,
    ObserverEntry,
    SrptqError,
    TensorRows,
    extremes,
    hookimpl,
)


class MeanSigma(BatchObserver[Average]):
    """Mean plus and minus `k` deviations, limited to the extremes. Averaged over batches."""

    def __init__(self, grid: IntGrid, *, k: float = 3.0, tensors_per_batch: int = 1) -> None:
        super().__init__(grid, tensors_per_batch=tensors_per_batch)
        if k <= 0:
            raise SrptqError(f"k: {k}; give a number above 0")
        self.k = k

    def measure(self, batch: Sequence[TensorRows]) -> Average:
        """Return the bounds of a batch: one row for each channel, or a single row."""
        low, high = extremes(batch)
        rows = torch.cat([tensor.rows for tensor in batch], 1).cpu().double()
        mean, reach = rows.mean(1), self.k * rows.std(1, correction=0)
        return Average(torch.stack([low.maximum(mean - reach), high.minimum(mean + reach)]))

    def row_bounds(self, state: Average) -> Bounds:
        """Return the bounds of each row from the average of all batches."""
        return Bounds(*state.value)


@hookimpl
def srptq_observers() -> Iterable[ObserverEntry]:
    """Register the observer."""
    return [ObserverEntry("mean-sigma", "k standard deviations around the mean", load=lambda: MeanSigma)]
