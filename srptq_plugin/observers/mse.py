"""MSE: the symmetric shrink of both bounds with the least squared error of quantization."""

from torch import Tensor

from srptq_plugin.observers.histogram import RunningHistogram
from srptq_plugin.observers.shrink import ShrinkSearch
from srptq_plugin.quantization.grid import QParams, dequantize, quantize


class MSEObserver(ShrinkSearch):
    """The error is exact for values spread evenly inside each bin; zeros have their own.

    >>> import torch
    >>> from srptq_plugin.quantization.grid import IntGrid
    >>> observer = MSEObserver(IntGrid(4))
    >>> observer.update(torch.cat([torch.linspace(-1, 1, 10000), torch.tensor([-5.0, 5.0])]))
    >>> observer.bounds()
    Bounds(-1, 1)
    """

    def cost(self, seen: RunningHistogram, qparams: QParams) -> Tensor:
        """The mean squared error."""
        return squared_error(seen, qparams)


def squared_error(seen: RunningHistogram, qparams: QParams) -> Tensor:
    """The mean squared error of each row on a grid, the parameters being shaped [rows, 1]."""
    edges = seen.edges
    inside = (_integral(edges, qparams).diff() / edges.diff() * seen.counts).sum(1)
    zeros = seen.zeros[:, None].mul(0)
    at_zero = dequantize(quantize(zeros.float(), qparams), qparams).double().square()[:, 0]
    return (inside + at_zero * seen.zeros) / seen.total


def _integral(values: Tensor, qparams: QParams) -> Tensor:
    """The integral of the squared error up to each value: step^3 / 12 a level, and the rest."""
    step, zero = qparams.scale.double(), qparams.zero_point.double()
    level = (values / step + zero).round().clamp(qparams.grid.qmin, qparams.grid.qmax)
    rest = values - (level - zero) * step
    return level * step**3 / 12 + rest**3 / 3
