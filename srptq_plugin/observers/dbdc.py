"""DBDC: density-based dual clipping, in one cumulative pass for any number of ratios."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from srptq_plugin.errors import SrptqError, UnknownNameError
from srptq_plugin.observers.base import Average, BatchObserver, TensorRows, extremes
from srptq_plugin.observers.histogram import equal_histogram, without_zeros
from srptq_plugin.quantization.grid import Bounds, IntGrid, QParams, dequantize, project, quantize

PAPER = {4: 4e-5, 6: 5e-5, 8: 1e-5}
LADDER = (0.0, 1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2)


class DBDCObserver(BatchObserver[Average]):
    """Drops the emptier end bin again and again while the rest keeps 1 - ratio of the mass.

    `ratio`: a number; `paper`, the paper's for 4, 6 and 8 bits; or `auto`, for each row that one of a ladder
    which has the least expected error on the grid. `average`: `mean`, or `ema`, a moving average that is merged by
    numbers of batches. It has the paper's factor, and starts from the first batch's clipped bounds, where the paper's
    Algorithm 1 starts from the extremes. That also drops one bin more than these, which keep 1 - ratio.

    >>> observer = DBDCObserver(IntGrid(8), ratio=0.01, bins=10)
    >>> observer.update(torch.cat([torch.linspace(0, 1, 999), torch.tensor([10.0])]))
    >>> observer.bounds()
    Bounds(0, 1)
    """

    def __init__(
        self,
        grid: IntGrid,
        *,
        ratio: float | Literal["paper", "auto"] = "auto",
        bins: int = 2048,
        average: Literal["mean", "ema"] = "mean",
        momentum: float = 0.9,
        tensors_per_batch: int = 1,
    ) -> None:
        super().__init__(grid, tensors_per_batch=tensors_per_batch)
        self.ratios, self.bins = ratios_of(ratio, grid.bits), bins
        if bins < 1:
            raise SrptqError(f"bins: {bins}; give 1 or more")
        self._share = _share(average, momentum)

    def measure(self, batch: Sequence[TensorRows]) -> Average:
        """Each ratio's bounds and expected error, shaped [3, ratios, rows]."""
        low, high = extremes(batch)
        counts = torch.stack([equal_histogram(part.rows, low, high, self.bins) for part in batch]).sum(0)
        below, above = dropped(counts, self.ratios)
        bounds = Bounds(low + (high - low) * (below / self.bins), high - (high - low) * (above / self.bins))
        errors = torch.zeros_like(bounds.lower)
        if len(self.ratios) > 1:
            zeros = torch.stack([part.zeros for part in batch]).sum(0)
            counts = without_zeros(counts, zeros, low, high)
            errors = expected_errors(counts, zeros, low, high, project(bounds, self.row_grid))
        return Average(torch.stack([bounds.lower, bounds.upper, errors]))

    def follow(self, seen: Average, batch: Average) -> Average:
        """The mean, or the moving average."""
        return seen.join(batch, self._share)

    @property
    def errors(self) -> Tensor:
        """The expected squared error of each ratio, for each row; zeros when there is no choice."""
        return self.so_far().value[2]

    @property
    def chosen(self) -> Tensor:
        """The place in `ratios` of the one chosen for each row: of equals, the one that clips least."""
        return self.errors.argmin(0)

    def offers(self) -> list[Bounds]:
        """The bounds of every ratio, for those who can tell better than from the tensor alone."""
        lower, upper, _ = self.so_far().value
        return [self._shaped(Bounds(*ends)) for ends in zip(lower, upper, strict=True)]

    def row_bounds(self, seen: Average) -> Bounds:
        """The bounds of the ratio that each row chose."""
        best = seen.value[2].argmin(0).expand(1, -1)
        return Bounds(*(ends.gather(0, best)[0] for ends in seen.value[:2]))


def ratios_of(ratio: float | str, bits: int) -> tuple[float, ...]:
    """The ratios to choose from.

    >>> ratios_of("paper", 8), ratios_of(0.01, 4), len(ratios_of("paper", 5)), len(ratios_of("auto", 8))
    ((1e-05,), (0.01,), 13, 13)
    """
    if isinstance(ratio, str):
        if ratio not in ("paper", "auto"):
            raise UnknownNameError("ratio", ratio, ["paper", "auto"])
        return (PAPER[bits],) if ratio == "paper" and bits in PAPER else LADDER
    if not 0 <= ratio < 1:
        raise SrptqError(f"ratio: {ratio}; give a number of 0 or more and less than 1, 'paper' or 'auto'")
    return (float(ratio),)


def _share(average: str, momentum: float) -> float | None:
    if average not in ("mean", "ema"):
        raise UnknownNameError("average", average, ["mean", "ema"])
    if not 0 <= momentum < 1:
        raise SrptqError(f"momentum: {momentum}; give a number of 0 or more and less than 1")
    return 1 - momentum if average == "ema" else None


def dropped(counts: Tensor, ratios: Sequence[float]) -> tuple[Tensor, Tensor]:
    """How many bins go at the lower and at the upper end: [ratios, rows] each.

    Two queues merged by their smaller head come out in the order of their running maxima. So a bin goes
    with all bins before it at its own end, and those at the other end whose maximum is smaller (on a tie
    the upper end goes first); it goes if what then stays is (1 - ratio) of the total or more.

    >>> below, above = dropped(torch.tensor([[1.0, 5.0, 90.0, 3.0, 1.0]]), [0.0, 0.01, 0.05, 0.1])
    >>> below.flatten().tolist(), above.flatten().tolist()
    ([0, 0, 1, 2], [0, 1, 2, 2])
    """
    lower, upper = counts, counts.flip(-1)
    lower_max, upper_max = lower.cummax(-1).values, upper.cummax(-1).values
    lower_sum, upper_sum = _sums(lower), _sums(upper)
    with_lower = lower_sum[:, 1:] + upper_sum.gather(1, torch.searchsorted(upper_max, lower_max, right=True))
    with_upper = upper_sum[:, 1:] + lower_sum.gather(1, torch.searchsorted(lower_max, upper_max))
    total = lower_sum[:, -1:]
    least = (1 - torch.tensor(ratios, dtype=counts.dtype)) * total
    below, above = (torch.searchsorted(gone - total, -least, right=True).T for gone in (with_lower, with_upper))
    return below, above


def _sums(counts: Tensor) -> Tensor:
    return torch.nn.functional.pad(counts.cumsum(-1), (1, 0))


def expected_errors(counts: Tensor, zeros: Tensor, low: Tensor, high: Tensor, qparams: QParams) -> Tensor:
    """The mean squared error of each row for each of [ratios, rows] parameters.

    From an equal histogram without zeros: clipped mass at its distance squared, step^2 / 12 for the mass
    inside; and zeros at the level nearest to them.
    """
    middles = (torch.arange(counts.shape[1]) + 0.5) / counts.shape[1]
    centers = low[:, None] + (high - low)[:, None] * middles
    inside = qparams.scale.double().square() / 12
    at_zero = dequantize(quantize(torch.zeros_like(qparams.scale), qparams), qparams).double().square()
    ends = zip(qparams.bounds.lower, qparams.bounds.upper, inside, strict=True)
    errors = torch.stack([(counts * _bin_errors(centers, *each)).sum(1) for each in ends])
    return (errors + at_zero * zeros) / (counts.sum(1) + zeros)


def _bin_errors(centers: Tensor, lower: Tensor, upper: Tensor, inside: Tensor) -> Tensor:
    beyond = (centers - centers.clamp(lower[:, None], upper[:, None])).square()
    return torch.where(beyond > 0, beyond, inside[:, None])
