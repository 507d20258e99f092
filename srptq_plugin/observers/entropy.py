"""Entropy: the shrink of both bounds that loses the least information, as TensorRT's calibrator has it."""

import torch
from torch import Tensor

from srptq_plugin.observers.histogram import RunningHistogram
from srptq_plugin.observers.shrink import ShrinkSearch
from srptq_plugin.quantization.grid import QParams, quantize

SMALLEST_SHARE = 1e-9


class EntropyObserver(ShrinkSearch):
    """KL divergence of the quantized distribution from the clipped one; exact zeros are left out of both.

    >>> from srptq_plugin.quantization.grid import IntGrid
    >>> observer = EntropyObserver(IntGrid(8))
    >>> observer.update(torch.cat([torch.linspace(-1, 1, 10000), torch.tensor([-5.0, 5.0])]))
    >>> observer.bounds()
    Bounds(-1, 1)
    """

    def cost(self, seen: RunningHistogram, qparams: QParams) -> Tensor:
        """The divergence."""
        return divergence(seen, qparams)


def divergence(seen: RunningHistogram, qparams: QParams) -> Tensor:
    """KL(clipped | quantized) of each row, the parameters being shaped [rows, 1]."""
    kept = _kept(seen.edges, qparams)
    clipped = _clip(seen.counts, kept)
    quantized = _spread(seen, qparams, kept, clipped > 0)
    share, model = _shares(clipped), _shares(quantized).clamp(min=SMALLEST_SHARE)
    return (torch.xlogy(share, share) - share * model.log()).sum(1)


def _kept(edges: Tensor, qparams: QParams) -> Tensor:
    used = qparams.bounds
    return (edges[:, 1:] > used.lower) & (edges[:, :-1] < used.upper)


def _clip(counts: Tensor, kept: Tensor) -> Tensor:
    """The counts with everything beyond the kept bins moved into the outermost of them."""
    last = kept.shape[1] - 1
    ends = kept.byte().argmax(1, keepdim=True), last - kept.flip(1).byte().argmax(1, keepdim=True)
    index = torch.arange(last + 1).expand_as(counts).clamp(*ends)
    return torch.zeros_like(counts).scatter_add(1, index, counts)


def _spread(seen: RunningHistogram, qparams: QParams, kept: Tensor, used: Tensor) -> Tensor:
    """The kept counts, each level's mass shared by those of its bins that hold any."""
    edges = seen.edges
    centers = (edges[:, 1:] + edges[:, :-1]).div(2).float()
    level = (quantize(centers, qparams) - qparams.grid.qmin).long()
    share = (kept & used).double()
    mass, bins = (_sum_by(level, each, qparams.grid.steps + 1) for each in (seen.counts * share, share))
    return (mass / bins.clamp(min=1)).gather(1, level) * share


def _sum_by(level: Tensor, values: Tensor, levels: int) -> Tensor:
    return torch.zeros(len(values), levels, dtype=values.dtype).scatter_add(1, level, values)


def _shares(counts: Tensor) -> Tensor:
    return counts / counts.sum(1, keepdim=True).clamp(min=1)
