"""DBDC: density-based dual clipping, in one cumulative pass for any number of ratios."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from srptq_plugin.observers.base import Average, BatchObserver, TensorRows, extremes
from srptq_plugin.observers.histogram import equal_histogram, without_zeros
from srptq_plugin.observers.observer_options import DbdcOptions
from srptq_plugin.quantization.grid import Bounds, IntGrid, QParams, dequantize, project, quantize

PAPER = {4: 4e-5, 6: 5e-5, 8: 1e-5}
"""Ratios of the paper, by bits."""
LADDER = (0.0, 1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2)
"""Ratios that `auto` chooses from."""


@dataclass(frozen=True)
class Clipped(Average):
    """The bounds and the expected error of every ratio, averaged over batches, shaped [3, ratios, rows].

    Attributes:
        excess: How far the extremes of the first batch lie beyond its bounds, shaped [2, ratios, rows].
    """

    excess: Tensor = field(kw_only=True)


class DBDCObserver(BatchObserver[Clipped]):
    """Bounds that drop the emptier end bin repeatedly while 1 - ratio of the mass remains.

    `ratio` is a number, `paper` for the paper's value at 4, 6 and 8 bits, or `auto`. With `auto` each row takes the
    ratio of least expected error from a ladder.

    `average` is `mean`, or `ema` for a moving average with the paper's factor. Merging weights moving averages by their
    numbers of batches.

    The paper's Algorithm 1 is `ratio: paper`, `average: ema`, `start: extremes` and `overshoot: true`. By default the
    loop stops one bin earlier, before the remaining mass falls below 1 - ratio.

    >>> observer = DBDCObserver(IntGrid(8), ratio=0.01, bins=10)
    >>> observer.update(torch.cat([torch.linspace(0, 1, 999), torch.tensor([10.0])]))
    >>> observer.bounds()
    Bounds(0, 1)
    """

    options_type = DbdcOptions

    def __init__(self, grid: IntGrid, *, tensors_per_batch: int = 1, **options: object) -> None:
        super().__init__(grid, tensors_per_batch=tensors_per_batch, **options)
        self.ratios, self.bins = resolve_ratios(self.options.ratio, grid.bits), self.options.bins
        # The weight of a new batch in a moving average, or None for a mean.
        self._share = 1 - self.options.momentum if self.options.average == "ema" else None

    def measure(self, batch: Sequence[TensorRows]) -> Clipped:
        """Return the bounds and the expected error of every ratio on one batch."""
        low, high = extremes(batch)
        counts = torch.stack([equal_histogram(tensor.rows, low, high, self.bins) for tensor in batch]).sum(0)
        below, above = count_dropped(counts, self.ratios, overshoot=self.options.overshoot)
        # Shares of the range, not edges: at 0 dropped bins the bounds are the extremes to the last bit.
        bounds = Bounds(low + (high - low) * (below / self.bins), high - (high - low) * (above / self.bins))
        errors = torch.zeros_like(bounds.lower)
        if len(self.ratios) > 1:
            zeros = torch.stack([tensor.zeros for tensor in batch]).sum(0)
            counts = without_zeros(counts, zeros, low, high)
            errors = expected_errors(counts, zeros, low, high, project(bounds, self.row_grid))
        excess = torch.stack([low - bounds.lower, high - bounds.upper])
        return Clipped(torch.stack([bounds.lower, bounds.upper, errors]), excess=excess)

    def accumulate(self, state: Clipped, batch: Clipped) -> Clipped:
        """Return the mean, or the moving average, after one more batch."""
        return state.join(batch, self._share)

    @property
    def errors(self) -> Tensor:
        """The expected squared errors, shaped [ratios, rows]. Zeros if there is only one ratio."""
        return self.require_state().value[2]

    @property
    def chosen(self) -> Tensor:
        """The index into `ratios` of the ratio that each row chose. Of equal errors the smallest ratio wins."""
        return self.errors.argmin(0)

    def offers(self) -> list[Bounds]:
        """Return the bounds of every ratio, for a caller that can judge them by the network's output."""
        lower, upper = self._bounds_of_ratios(self.require_state())
        return [self._shape(Bounds(*ends)) for ends in zip(lower, upper, strict=True)]

    def row_bounds(self, state: Clipped) -> Bounds:
        """Return the bounds of the ratio that each row chose."""
        lower, upper = self._bounds_of_ratios(state)
        best = state.value[2].argmin(0).expand(1, -1)
        return Bounds(lower.gather(0, best)[0], upper.gather(0, best)[0])

    def _bounds_of_ratios(self, state: Clipped) -> Tensor:
        """Return the lower and upper bounds of every ratio, shaped [2, ratios, rows]."""
        if self.options.start == "clipped":
            return state.value[:2]
        # Each batch multiplies the start of a moving average by the momentum, so another start is added at the end.
        # A single batch is then the same state in whichever observer it is measured first.
        return state.value[:2] + self.options.momentum**state.count * state.excess


def resolve_ratios(ratio: float | str, bits: int) -> tuple[float, ...]:
    """Return the ratios to choose from.

    >>> resolve_ratios("paper", 8), resolve_ratios(0.01, 4)
    ((1e-05,), (0.01,))
    >>> len(resolve_ratios("paper", 5)), len(resolve_ratios("auto", 8))
    (13, 13)
    """
    if isinstance(ratio, str):
        return (PAPER[bits],) if ratio == "paper" and bits in PAPER else LADDER
    return (float(ratio),)


def count_dropped(counts: Tensor, ratios: Sequence[float], *, overshoot: bool = False) -> tuple[Tensor, Tensor]:
    """Count the bins that DBDC drops at the lower and at the upper end, without its greedy loop.

    Args:
        counts: Histograms, shaped [rows, bins].
        ratios: The share of the mass that may go.
        overshoot: Whether the bin goes as well with which more than this share is gone.

    Returns:
        Two tensors shaped [ratios, rows].

    >>> below, above = count_dropped(torch.tensor([[1.0, 5.0, 90.0, 3.0, 1.0]]), [0.0, 0.01, 0.05, 0.1])
    >>> below.flatten().tolist(), above.flatten().tolist()
    ([0, 0, 1, 2], [0, 1, 2, 2])
    """
    # Trick: the loop merges two queues, the bins from either end, by their smaller head. Such a merge visits the bins
    # in the order of their running maxima. So before bin i of one end go all bins before it at its own end, and the
    # bins of the other end whose running maximum is smaller. On a tie the upper end goes first.
    lower, upper = counts, counts.flip(-1)
    lower_max, upper_max = lower.cummax(-1).values, upper.cummax(-1).values
    lower_sum, upper_sum = _prefix_sums(lower), _prefix_sums(upper)
    # The mass that is gone once bin i of the lower or of the upper end goes. Both never decrease with i.
    with_lower = lower_sum[:, 1:] + upper_sum.gather(1, torch.searchsorted(upper_max, lower_max, right=True))
    with_upper = upper_sum[:, 1:] + lower_sum.gather(1, torch.searchsorted(lower_max, upper_max))
    total = lower_sum[:, -1:]
    least = (1 - torch.tensor(ratios, dtype=counts.dtype)) * total
    if overshoot:
        # Exact, since counts are integers: the mass that is gone before bin i goes.
        with_lower, with_upper = with_lower - lower, with_upper - upper
    # Invariant: a bin goes if and only if total - gone >= least, which is gone - total <= -least. Subtracting from the
    # total, as the loop does, rounds as the loop does.
    below = torch.searchsorted(with_lower - total, -least, right=True).T
    above = torch.searchsorted(with_upper - total, -least, right=True).T
    return below, above


def _prefix_sums(counts: Tensor) -> Tensor:
    return torch.nn.functional.pad(counts.cumsum(-1), (1, 0))


def expected_errors(counts: Tensor, zeros: Tensor, low: Tensor, high: Tensor, qparams: QParams) -> Tensor:
    """Estimate the mean squared error of quantizing each row, from its histogram alone.

    Args:
        counts: An equal histogram over [low, high] without exact zeros, shaped [rows, bins].
        zeros: The number of exact zeros in each row.
        low: The lowest value of each row.
        high: The highest value of each row.
        qparams: The grids to judge, shaped [ratios, rows].

    Returns:
        Errors, shaped [ratios, rows].
    """
    middles = (torch.arange(counts.shape[1]) + 0.5) / counts.shape[1]
    centers = low[:, None] + (high - low)[:, None] * middles
    # Rounding errors are uniform over one step, and their variance is step^2 / 12.
    rounding = qparams.scale.double().square() / 12
    # Exact zeros, about half of the values behind a ReLU, all have one error: the distance from 0 to the nearest level.
    at_zero = dequantize(quantize(torch.zeros_like(qparams.scale), qparams), qparams).double().square()
    bounds = qparams.bounds
    errors = torch.stack(
        [
            (counts * _bin_errors(centers, lower, upper, inside)).sum(1)
            for lower, upper, inside in zip(bounds.lower, bounds.upper, rounding, strict=True)
        ]
    )
    return (errors + at_zero * zeros) / (counts.sum(1) + zeros)


def _bin_errors(centers: Tensor, lower: Tensor, upper: Tensor, inside: Tensor) -> Tensor:
    """Return the squared error at each bin center: the squared distance beyond the bounds, or `inside` within them."""
    beyond = (centers - centers.clamp(lower[:, None], upper[:, None])).square()
    return torch.where(beyond > 0, beyond, inside[:, None])
