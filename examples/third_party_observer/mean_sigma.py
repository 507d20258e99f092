"""A complete third-party observer in one file: `k` standard deviations on either side of the mean."""

from collections.abc import Iterable, Sequence

import torch
from pydantic import Field

from srptq_plugin.plugin_api import (
    Average,
    BatchObserver,
    Bounds,
    ObserverEntry,
    Options,
    TensorRows,
    extremes,
    hookimpl,
)


class MeanSigmaOptions(Options):
    """The option of the observer."""

    k: float = Field(default=3.0, gt=0)
    """How many deviations the bounds are away from the mean."""


class MeanSigma(BatchObserver[Average]):
    """Mean plus and minus `k` deviations, limited to the extremes. Averaged over batches."""

    options_type = MeanSigmaOptions

    def measure(self, batch: Sequence[TensorRows]) -> Average:
        """Return the bounds of a batch: one row for each channel, or a single row."""
        low, high = extremes(batch)
        rows = torch.cat([tensor.rows for tensor in batch], 1).cpu().double()
        mean, reach = rows.mean(1), self.options.k * rows.std(1, correction=0)
        return Average(torch.stack([low.maximum(mean - reach), high.minimum(mean + reach)]))

    def row_bounds(self, state: Average) -> Bounds:
        """Return the bounds of each row from the average of all batches."""
        return Bounds(*state.value)


@hookimpl
def srptq_observers() -> Iterable[ObserverEntry]:
    """Register the observer."""
    return [
        ObserverEntry(
            "mean-sigma", "k standard deviations around the mean", load=lambda: MeanSigma, options=MeanSigmaOptions
        )
    ]
