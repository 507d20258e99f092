"""MSE: shrink both bounds by the same factor until quantizing has the least squared error."""

import torch
from torch import Tensor

from srptq_plugin.observers.histogram import RunningHistogram
from srptq_plugin.observers.shrink import ShrinkSearch
from srptq_plugin.quantization.grid import QParams, dequantize, quantize


class MSEObserver(ShrinkSearch):
    """The bounds of least squared error. The error is exact for zeros and for a uniform density in each bin.

    >>> import torch
    >>> from srptq_plugin.quantization.grid import IntGrid
    >>> observer = MSEObserver(IntGrid(4))
    >>> observer.update(torch.cat([torch.linspace(-1, 1, 10000), torch.tensor([-5.0, 5.0])]))
    >>> observer.bounds()
    Bounds(-1, 1)
    """

    def cost(self, histogram: RunningHistogram, qparams: QParams) -> Tensor:
        """Return the mean squared error of each row."""
        return squared_error(histogram, qparams)


def squared_error(histogram: RunningHistogram, qparams: QParams) -> Tensor:
    """Return the mean squared error of quantizing each row, for `qparams` shaped [rows, 1]."""
    edges = histogram.edges
    # With a uniform density, the mean error inside a bin is the integral over the bin divided by its width.
    inside = (_integrate(edges, qparams).diff() / edges.diff() * histogram.counts).sum(1)
    zero = torch.zeros_like(histogram.zeros)[:, None].float()
    at_zero = dequantize(quantize(zero, qparams), qparams).double().square()[:, 0]
    return (inside + at_zero * histogram.zeros) / histogram.total


def _integrate(values: Tensor, qparams: QParams) -> Tensor:
    """Return the antiderivative of the squared quantization error at each value."""
    step, zero = qparams.scale.double(), qparams.zero_point.double()
    level = (values / step + zero).round().clamp(qparams.grid.qmin, qparams.grid.qmax)
    rest = values - (level - zero) * step
    # One level contributes the integral of e^2 over [-step/2, step/2], which is step^3 / 12. From one level to the
    # next, rest^3 / 3 falls by the same amount, so the sum is continuous. Clipped values stay at the outermost level
    # and their rest grows without limit, so the cubic term alone integrates the clipping error.
    return level * step**3 / 12 + rest**3 / 3
