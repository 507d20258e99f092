"""DAQ, distribution-aware quantization (Hong et al., WACV 2022): each channel of each image by its mean and deviation.

`daq-m` gives channels that deviate most a bit more, and those that deviate least a bit less.
"""

import math
from functools import cache

import torch
from torch import Tensor

from srptq_plugin.qat.dynamic import DynamicFakeQuantize, channel_axes, straight_through
from srptq_plugin.quantization.grid import Bounds

MIXED = 0.1
"""The share p of channels with other than the usual bits."""


@cache
def gaussian_step(bits: int) -> float:
    """The step s(n) with the least squared error on a standard Gaussian, for 2^n levels about zero (table 1).

    >>> [round(gaussian_step(bits), 3) for bits in (1, 2, 3, 4)]
    [1.596, 0.996, 0.586, 0.335]
    """
    low, high = 1.0, 10.0
    while high - low > 1e-9:  # noqa: PLR2004 - as far as float64 tells the errors apart
        one, other = low + (high - low) / 3, high - (high - low) / 3
        low, high = (low, other) if _error(one, bits) < _error(other, bits) else (one, high)
    return low / 2 ** (bits - 1)


def _error(reach: float, bits: int) -> float:
    """The squared error but for a constant, the last levels being half a step within +-reach."""
    step = reach / 2 ** (bits - 1)
    inner = torch.arange(1, 2 ** (bits - 1), dtype=torch.float64)
    density = (-0.5 * (inner * step).square()).exp().sum() / math.sqrt(2 * math.pi)
    beyond = (inner * torch.special.ndtr(-inner * step)).sum()
    return float(step**2 * (0.25 + 4 * beyond) - step * (4 * density + math.sqrt(2 / math.pi)))


def discretize(standard: Tensor, steps: Tensor, levels: Tensor, shift: Tensor | float = 0.0) -> Tensor:
    """Equation 4: standardized values, clipped to +-alpha + beta, at the middles of steps.

    >>> discretize(torch.tensor([-9.0, 0.2, 9.0]), torch.tensor(1.0), torch.tensor(4.0))
    tensor([-1.5000,  0.5000,  1.5000])
    """
    alpha = reach(steps, levels)
    clipped = torch.minimum(torch.maximum(standard, shift - alpha), shift + alpha)
    return ((clipped / steps + 0.5).round() - 0.5) * steps


def reach(steps: Tensor, levels: Tensor) -> Tensor:
    """Alpha of equation 5.

    >>> reach(torch.tensor(0.5), torch.tensor(16.0)).item()
    3.75
    """
    return (levels / 2 - 0.5) * steps


class DaqFakeQuantize(DynamicFakeQuantize):
    """Quantizes each channel of each image by its mean and deviation; a weight by its deviation.

    What is never negative, by the bounds, is taken to come after a ReLU.

    >>> from srptq_plugin.quantization.grid import IntGrid
    >>> quantizer = DaqFakeQuantize("input", IntGrid(1, float_zero_point=True), bounds=Bounds.of(-1.0, 1.0))
    >>> quantizer.of_images(torch.tensor([[[[-1.0, 0.0, 0.0, 1.0]]]]))
    tensor([[[[-0.5642, -0.5642, -0.5642,  0.5642]]]])
    """

    def of_weight(self, weight: Tensor) -> Bounds:
        """Equations 7 and 8: the outermost levels, the mean being taken for 0."""
        axes, bits = channel_axes(weight, self.grid.channel_axis), self.grid.bits
        deviation = weight.double().std(axes, correction=0)
        outermost = (2 ** (bits - 1) - 0.5) * gaussian_step(bits) * deviation
        return Bounds.of(-outermost, outermost)

    def of_images(self, values: Tensor) -> Tensor:
        """Equations 2 to 6, and 13 for the gradient."""
        return straight_through(values, self._rounded(values.detach()))

    def _rounded(self, values: Tensor) -> Tensor:
        """A channel that does not deviate is its mean."""
        axes = list(range(2, values.ndim))
        mean = values.mean(axes, keepdim=True)
        deviation = values.std(axes, correction=0, keepdim=True)
        unit = torch.where(deviation > 0, deviation, 1.0)
        steps, levels = self._steps(self.bits_of(deviation))
        shift = torch.where(self.bounds.lower >= 0, (reach(steps, levels) - mean / unit).clamp(min=0), 0.0)
        return discretize((values - mean) / unit, steps, levels, shift) * deviation + mean

    def bits_of(self, deviation: Tensor) -> Tensor:
        """The bits of channels, by their deviation [N, C, 1, 1]: the same for all."""
        return torch.full_like(deviation, self.grid.bits)

    def _steps(self, bits: Tensor) -> tuple[Tensor, Tensor]:
        """Step size and number of levels of each channel."""
        usual = self.grid.bits
        known = bits.new_tensor([gaussian_step(max(1, each)) for each in (usual - 1, usual, usual + 1)])
        return known[(bits - usual + 1).long()], bits.exp2()


class MixedDaqFakeQuantize(DaqFakeQuantize):
    """The same with a bit more or less for channels at the ends of a log-normal fit to their deviations.

    >>> from srptq_plugin.quantization.grid import IntGrid
    >>> deviation = torch.tensor([0.01, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0, 100.0]).reshape(1, 10, 1, 1)
    >>> MixedDaqFakeQuantize("input", IntGrid(4)).bits_of(deviation).flatten().tolist()
    [3.0, 4.0, 4.0, 4.0, 4.0, 4.0, 4.0, 4.0, 3.0, 5.0]
    """

    def bits_of(self, deviation: Tensor) -> Tensor:
        """Equations 11 and 12, image by image; no channel has less than one bit, or counts if it does not deviate."""
        counts = deviation > 0
        logs = torch.where(counts, deviation, 1.0).log()
        number = counts.sum(1, keepdim=True).clamp(min=1)
        mean = logs.sum(1, keepdim=True) / number
        spread = ((logs - mean) * counts).square().sum(1, keepdim=True).div(number).sqrt()
        beyond = spread * torch.special.ndtri(torch.tensor(1 - MIXED / 2).to(deviation))
        more, less = counts & (logs > mean + beyond), ~counts | (logs < mean - beyond)
        return (self.grid.bits + more.to(deviation) - less.to(deviation)).clamp(min=1)
