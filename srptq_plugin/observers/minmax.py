"""Min-max: the extremes of all values seen."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from srptq_plugin.observers.base import BatchObserver, TensorRows, extremes
from srptq_plugin.quantization.grid import Bounds


@dataclass(frozen=True)
class Extremes:
    """The lowest and the highest value of each row."""

    low: Tensor
    high: Tensor

    def join(self, other: "Extremes") -> "Extremes":
        """Return the extremes of both."""
        return Extremes(torch.minimum(self.low, other.low), torch.maximum(self.high, other.high))


class MinMaxObserver(BatchObserver[Extremes]):
    """The lowest and the highest value over all batches.

    >>> from srptq_plugin.quantization.grid import IntGrid
    >>> observer = MinMaxObserver(IntGrid(8))
    >>> observer.update(torch.tensor([-1.0, 2.0]))
    >>> observer.bounds()
    Bounds(-1, 2)
    """

    def measure(self, batch: Sequence[TensorRows]) -> Extremes:
        """Return the extremes of the batch."""
        return Extremes(*extremes(batch))

    def row_bounds(self, state: Extremes) -> Bounds:
        """Return the extremes as bounds."""
        return Bounds(state.low, state.high)
