"""Exact histograms: equal bins over given extremes, and a running one whose range grows."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from srptq_plugin.observers.base import TensorRows, extremes
from srptq_plugin.quantization.chunking import iter_columns

FLOAT32_DIGITS = 24
SMALLEST_EXPONENT = -120


def bin_counts(numbers: Tensor, bins: int) -> Tensor:
    """How often each bin number occurs in each row: exact integers, held in float64 on the CPU.

    >>> bin_counts(torch.tensor([[0.0, 2.0, 2.0], [1.0, 1.0, 1.0]]), 3).tolist()
    [[1.0, 0.0, 2.0], [0.0, 3.0, 0.0]]
    """
    rows = len(numbers)
    offsets = torch.arange(rows, dtype=torch.int32, device=numbers.device)[:, None] * bins
    index = numbers.int().add_(offsets).flatten()
    return torch.bincount(index, minlength=rows * bins).reshape(rows, bins).cpu().double()


def equal_histogram(rows: Tensor, low: Tensor, high: Tensor, bins: int) -> Tensor:
    """The counts of each row in equal bins over [low, high], the last bin closed.

    >>> ends = torch.zeros(1).double(), torch.ones(1).double()
    >>> equal_histogram(torch.tensor([[0.0, 0.2, 0.5, 1.0]]), *ends, 2).tolist()
    [[2.0, 2.0]]
    """
    low, width = (ends.float().to(rows.device)[:, None] for ends in (low, high - low))
    width = torch.where(width > 0, width, torch.ones_like(width))
    return _counted(rows, bins, lambda piece: (piece - low).div_(width).mul_(bins).clamp_(0, bins - 1))


def _counted(rows: Tensor, bins: int, numbered: Callable[[Tensor], Tensor]) -> Tensor:
    """The counts of rows whose values have these bin numbers."""
    counts = torch.zeros(len(rows), bins, dtype=torch.float64)
    for piece in iter_columns(rows):
        counts += bin_counts(numbered(piece), bins)
    return counts


def without_zeros(counts: Tensor, zeros: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """The counts of an equal histogram less those values that are exactly zero."""
    where = equal_histogram(torch.zeros(len(counts), 1), low, high, counts.shape[1])
    return counts - where * zeros[:, None]


@dataclass(frozen=True)
class RunningHistogram:
    """A histogram for each row whose bins are the multiples of a power of two.

    A wider range doubles the bins, two old ones into one new one; so the counts depend on the data
    and never on the order in which they came. Exact zeros are counted apart.
    """

    low: Tensor
    high: Tensor
    zeros: Tensor
    exponent: Tensor
    start: Tensor
    counts: Tensor

    @classmethod
    def of(cls, batch: Sequence[TensorRows], bins: int) -> "RunningHistogram":
        """The histogram of one batch."""
        low, high = extremes(batch)
        exponent, start = _frame(low, high, bins)
        counts = sum((_count(part.rows, exponent, start, bins) for part in batch), torch.zeros(()))
        zeros = sum((part.zeros for part in batch), torch.zeros(()))
        home = (-start).clamp(0, bins - 1)[:, None]
        return cls(low, high, zeros, exponent, start, counts.scatter_add(1, home, -zeros[:, None]))

    def join(self, other: "RunningHistogram") -> "RunningHistogram":
        """The histogram of what either has seen."""
        low, high = torch.minimum(self.low, other.low), torch.maximum(self.high, other.high)
        exponent, start = _frame(low, high, self.counts.shape[1])
        counts = self.framed(exponent, start) + other.framed(exponent, start)
        return RunningHistogram(low, high, self.zeros + other.zeros, exponent, start, counts)

    def framed(self, exponent: Tensor, start: Tensor) -> Tensor:
        """The counts in wider bins, or in the same."""
        numbers = self._numbers(self.counts.shape[1]) >> (exponent - self.exponent)[:, None]
        index = (numbers - start[:, None]).clamp(0, self.counts.shape[1] - 1)
        return torch.zeros_like(self.counts).scatter_add(1, index, self.counts)

    def _numbers(self, count: int) -> Tensor:
        return self.start[:, None] + torch.arange(count)

    @property
    def edges(self) -> Tensor:
        """The edges of the bins, one more than there are bins."""
        return self._numbers(self.counts.shape[1] + 1) * self.exponent.double().exp2()[:, None]

    @property
    def total(self) -> Tensor:
        """How many values each row has seen."""
        return self.counts.sum(1) + self.zeros


def _count(rows: Tensor, exponent: Tensor, start: Tensor, bins: int) -> Tensor:
    scale, first = (each.float().to(rows.device)[:, None] for each in ((-exponent).float().exp2(), start))
    return _counted(rows, bins, lambda piece: (piece * scale).floor_().sub_(first))


def _frame(low: Tensor, high: Tensor, bins: int) -> tuple[Tensor, Tensor]:
    """The least exponent at which the range fits, and the number of the first bin."""
    finest = _exponent(torch.maximum(low.abs(), high.abs())) - FLOAT32_DIGITS
    exponent = _exponent((high - low) / bins).maximum(finest).clamp(min=SMALLEST_EXPONENT)
    exponent = exponent + (_bin_of(high, exponent) - _bin_of(low, exponent) >= bins)
    return exponent.long(), _bin_of(low, exponent)


def _exponent(size: Tensor) -> Tensor:
    exponent = torch.frexp(size).exponent
    return torch.where(size > 0, exponent, torch.full_like(exponent, SMALLEST_EXPONENT))


def _bin_of(value: Tensor, exponent: Tensor) -> Tensor:
    return torch.ldexp(value, -exponent).floor().long()
