"""Entropy: shrink both bounds by the same factor until quantizing changes the distribution least."""

import torch
from torch import Tensor

from srptq_plugin.observers.histogram import RunningHistogram
from srptq_plugin.observers.shrink import ShrinkSearch
from srptq_plugin.quantization.grid import QParams, quantize

SMALLEST_SHARE = 1e-9
"""The least probability of a bin in the quantized distribution. It keeps the divergence finite."""


class EntropyObserver(ShrinkSearch):
    """The bounds of least KL divergence between the clipped and the quantized distribution, without exact zeros.

    >>> from srptq_plugin.quantization.grid import IntGrid
    >>> observer = EntropyObserver(IntGrid(8))
    >>> observer.update(torch.cat([torch.linspace(-1, 1, 10000), torch.tensor([-5.0, 5.0])]))
    >>> observer.bounds()
    Bounds(-1, 1)
    """

    def cost(self, histogram: RunningHistogram, qparams: QParams) -> Tensor:
        """Return the divergence of each row."""
        return divergence(histogram, qparams)


def divergence(histogram: RunningHistogram, qparams: QParams) -> Tensor:
    """Return KL(clipped | quantized) of each row, for `qparams` shaped [rows, 1].

    As in TensorRT, clipping moves the outliers into the outermost bins, and only the clipped distribution has them.
    Bounds that are too narrow therefore cost.
    """
    inside = _find_inside(histogram.edges, qparams)
    clipped = _clip(histogram.counts, inside)
    quantized = _spread(histogram, qparams, inside, clipped > 0)
    p, q = _normalize(clipped), _normalize(quantized).clamp(min=SMALLEST_SHARE)
    # xlogy is 0 for an empty bin, where p * log(p) would be NaN.
    return (torch.xlogy(p, p) - p * q.log()).sum(1)


def _find_inside(edges: Tensor, qparams: QParams) -> Tensor:
    """Return a mask of the bins that overlap the bounds of the grid, shaped [rows, bins]."""
    bounds = qparams.bounds
    return (edges[:, 1:] > bounds.lower) & (edges[:, :-1] < bounds.upper)


def _clip(counts: Tensor, inside: Tensor) -> Tensor:
    """Return the counts with all outliers moved into the outermost bins that are inside."""
    # The bins inside are contiguous, and argmax returns the first of equal values. So argmax finds the first bin inside
    # and, on the flipped mask, the last one. Clamping the bin numbers to them moves counts but loses none.
    final = inside.shape[1] - 1
    first = inside.byte().argmax(1, keepdim=True)
    last = final - inside.flip(1).byte().argmax(1, keepdim=True)
    index = torch.arange(final + 1).expand_as(counts).clamp(first, last)
    return torch.zeros_like(counts).scatter_add(1, index, counts)


def _spread(histogram: RunningHistogram, qparams: QParams, inside: Tensor, occupied: Tensor) -> Tensor:
    """Return the counts after quantizing: each level shares its mass evenly among its occupied bins.

    Args:
        histogram: The counts and edges, before clipping.
        qparams: The grid, shaped [rows, 1].
        inside: The mask of bins within the bounds.
        occupied: The mask of bins that hold values after clipping.
    """
    edges = histogram.edges
    centers = (edges[:, 1:] + edges[:, :-1]).div(2).float()
    level = (quantize(centers, qparams) - qparams.grid.qmin).long()
    # Empty bins take no share. Otherwise a sparse histogram would cost more than its quantization does.
    used = (inside & occupied).double()
    levels = qparams.grid.steps + 1
    mass = _sum_by_level(level, histogram.counts * used, levels)
    bins = _sum_by_level(level, used, levels)
    return (mass / bins.clamp(min=1)).gather(1, level) * used


def _sum_by_level(level: Tensor, values: Tensor, levels: int) -> Tensor:
    return torch.zeros(len(values), levels, dtype=values.dtype).scatter_add(1, level, values)


def _normalize(counts: Tensor) -> Tensor:
    return counts / counts.sum(1, keepdim=True).clamp(min=1)
