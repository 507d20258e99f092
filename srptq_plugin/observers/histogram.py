"""Exact histograms: equal bins between fixed extremes, and bins of a power of two whose range can grow."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from srptq_plugin.observers.base import TensorRows, extremes
from srptq_plugin.quantization.chunking import iter_columns

FLOAT32_DIGITS = 24
"""Binary digits of a float32 mantissa: all integers up to 2^24 are exact."""
SMALLEST_EXPONENT = -120
"""The narrowest bin is 2^-120, so that its inverse is still a finite float32."""


def bin_counts(numbers: Tensor, bins: int) -> Tensor:
    """Count each bin number in each row: exact integers, held in float64 on the CPU.

    >>> bin_counts(torch.tensor([[0.0, 2.0, 2.0], [1.0, 1.0, 1.0]]), 3).tolist()
    [[1.0, 0.0, 2.0], [0.0, 3.0, 0.0]]
    """
    rows = len(numbers)
    # One bincount serves all rows: row r counts in bins r * bins to (r + 1) * bins - 1.
    # Integer counts stay exact beyond 2^24, where adding ones in float32 would stop.
    offsets = torch.arange(rows, dtype=torch.int32, device=numbers.device)[:, None] * bins
    index = numbers.int().add_(offsets).flatten()
    return torch.bincount(index, minlength=rows * bins).reshape(rows, bins).cpu().double()


def equal_histogram(rows: Tensor, low: Tensor, high: Tensor, bins: int) -> Tensor:
    """Count each row in equal bins over [low, high], the last bin closed.

    >>> ends = torch.zeros(1).double(), torch.ones(1).double()
    >>> equal_histogram(torch.tensor([[0.0, 0.2, 0.5, 1.0]]), *ends, 2).tolist()
    [[2.0, 2.0]]
    """
    width = _column(high - low, rows.device)
    low = _column(low, rows.device)
    # A constant row has no width. Dividing its zeros by 1 puts all values into bin 0.
    width = torch.where(width > 0, width, torch.ones_like(width))
    # The upper clamp closes the last bin: a value equal to `high` has the number `bins`.
    return _count_chunks(rows, bins, lambda chunk: (chunk - low).div_(width).mul_(bins).clamp_(0, bins - 1))


def without_zeros(counts: Tensor, zeros: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Return the counts of an equal histogram minus the values that are exactly zero."""
    # Binning a zero by the same float32 arithmetic finds the bin that the zeros of the data fell into.
    home = equal_histogram(torch.zeros(len(counts), 1), low, high, counts.shape[1])
    return counts - home * zeros[:, None]


@dataclass(frozen=True)
class RunningHistogram:
    """A histogram for each row whose bins are the multiples of a power of two.

    Bin n of a row covers [n, n + 1) * 2^exponent, and `counts` begins at bin `start`. Exact zeros are counted apart.
    When the range outgrows the bins the exponent rises by one, and every new bin is the union of two old ones. So no
    count is ever split, and the histogram depends on the data and not on their order.
    """

    low: Tensor
    high: Tensor
    zeros: Tensor
    exponent: Tensor
    start: Tensor
    counts: Tensor

    @classmethod
    def of(cls, batch: Sequence[TensorRows], bins: int) -> "RunningHistogram":
        """Count the values of one batch."""
        low, high = extremes(batch)
        exponent, start = _choose_frame(low, high, bins)
        counts = sum((_count(tensor.rows, exponent, start, bins) for tensor in batch), torch.zeros(()))
        zeros = sum((tensor.zeros for tensor in batch), torch.zeros(()))
        # Zeros fall into bin 0, at index -start. If bin 0 is out of range there are none, and the clamp does no harm.
        home = (-start).clamp(0, bins - 1)[:, None]
        return cls(low, high, zeros, exponent, start, counts.scatter_add(1, home, -zeros[:, None]))

    def join(self, other: "RunningHistogram") -> "RunningHistogram":
        """Return the histogram of the values of both."""
        low, high = torch.minimum(self.low, other.low), torch.maximum(self.high, other.high)
        exponent, start = _choose_frame(low, high, self.counts.shape[1])
        counts = self.reframe(exponent, start) + other.reframe(exponent, start)
        return RunningHistogram(low, high, self.zeros + other.zeros, exponent, start, counts)

    def reframe(self, exponent: Tensor, start: Tensor) -> Tensor:
        """Return the counts in bins of another exponent, the same or higher, that begin at `start`."""
        # An arithmetic shift divides by a power of two and rounds down, for negative bin numbers as well.
        numbers = self._numbers(self.counts.shape[1]) >> (exponent - self.exponent)[:, None]
        # The new frame covers all values, so the clamp only moves bins that are empty.
        index = (numbers - start[:, None]).clamp(0, self.counts.shape[1] - 1)
        return torch.zeros_like(self.counts).scatter_add(1, index, self.counts)

    @property
    def edges(self) -> Tensor:
        """The edges of the bins, shaped [rows, bins + 1]. Float64 holds them exactly."""
        return self._numbers(self.counts.shape[1] + 1) * self.exponent.double().exp2()[:, None]

    @property
    def total(self) -> Tensor:
        """The number of values in each row, zeros included."""
        return self.counts.sum(1) + self.zeros

    def _numbers(self, count: int) -> Tensor:
        return self.start[:, None] + torch.arange(count)


def _count(rows: Tensor, exponent: Tensor, start: Tensor, bins: int) -> Tensor:
    # Exact in float32: scaling by a power of two does not round, and `_choose_frame` keeps bin numbers below 2^24.
    scale = _column((-exponent).float().exp2(), rows.device)
    first = _column(start, rows.device)
    return _count_chunks(rows, bins, lambda chunk: (chunk * scale).floor_().sub_(first))


def _count_chunks(rows: Tensor, bins: int, number: Callable[[Tensor], Tensor]) -> Tensor:
    """Count rows chunk by chunk, where `number` returns the bin numbers of a chunk."""
    counts = torch.zeros(len(rows), bins, dtype=torch.float64)
    for chunk in iter_columns(rows):
        counts += bin_counts(number(chunk), bins)
    return counts


def _column(values: Tensor, device: torch.device) -> Tensor:
    return values.float().to(device)[:, None]


def _choose_frame(low: Tensor, high: Tensor, bins: int) -> tuple[Tensor, Tensor]:
    """Return the least exponent at which [low, high] fits the bins, and the number of the first bin."""
    # |x| < 2^e for the frexp exponent e. Bins no finer than 2^(e - 24) keep bin numbers below 2^24, exact in float32,
    # and finer bins would resolve nothing that float32 values have.
    finest = _exponent(torch.maximum(low.abs(), high.abs())) - FLOAT32_DIGITS
    # 2^exponent exceeds range / bins, so the range is narrower than all bins together. It may still straddle one bin
    # more than there are, depending on where it begins. Doubling the bins once always cures that.
    exponent = _exponent((high - low) / bins).maximum(finest).clamp(min=SMALLEST_EXPONENT)
    exponent = exponent + (_bin_number(high, exponent) - _bin_number(low, exponent) >= bins)
    return exponent.long(), _bin_number(low, exponent)


def _exponent(size: Tensor) -> Tensor:
    """Return the least e with size < 2^e."""
    exponent = torch.frexp(size).exponent
    return torch.where(size > 0, exponent, torch.full_like(exponent, SMALLEST_EXPONENT))


def _bin_number(value: Tensor, exponent: Tensor) -> Tensor:
    return torch.ldexp(value, -exponent).floor().long()
