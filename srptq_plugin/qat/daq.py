"""DAQ, distribution-aware quantization (Hong et al., WACV 2022): each channel of each image by its mean and deviation.

`daq-m` is mixed precision: channels with the largest deviations get more bits, and with the smallest fewer.
"""

import math
from functools import cache
from typing import ClassVar

import torch
from torch import Tensor

from srptq_plugin.qat.dynamic import DynamicFakeQuantize, channel_axes, straight_through
from srptq_plugin.qat.quantizer_options import DaqOptions, MixedDaqOptions
from srptq_plugin.quantization.grid import Bounds
from srptq_plugin.utils.options import Options


@cache
def gaussian_step(bits: int) -> float:
    """Return the step s(n) with the least squared error on a standard Gaussian, for 2^n levels around zero (table 1).

    >>> [round(gaussian_step(bits), 3) for bits in (1, 2, 3, 4)]
    [1.596, 0.996, 0.586, 0.335]
    """
    # Ternary search: the error has one minimum over the clip range +-r, and each round drops a third of the interval.
    low, high = 1.0, 10.0
    while high - low > 1e-9:  # noqa: PLR2004 - closer, rounding errors decide
        left, right = low + (high - low) / 3, high - (high - low) / 3
        if _error(left, bits) < _error(right, bits):
            high = right
        else:
            low = left
    return low / 2 ** (bits - 1)


def _error(reach: float, bits: int) -> float:
    """Return the expected squared error, up to a constant, of levels at the middles of the steps within +-reach.

    E(x - Q(x))^2 = 1 - 2 E(x Q(x)) + E(Q(x)^2). Sums by parts over the inner step edges t turn both expectations into
    sums of the density and of the tail probability at t.
    """
    step = reach / 2 ** (bits - 1)
    inner = torch.arange(1, 2 ** (bits - 1), dtype=torch.float64)
    density = (-0.5 * (inner * step).square()).exp().sum() / math.sqrt(2 * math.pi)
    beyond = (inner * torch.special.ndtr(-inner * step)).sum()
    return float(step**2 * (0.25 + 4 * beyond) - step * (4 * density + math.sqrt(2 / math.pi)))


def discretize(standard: Tensor, steps: Tensor, levels: Tensor, shift: Tensor | float = 0.0) -> Tensor:
    """Quantize standardized values by equation 4: clip to [beta - alpha, beta + alpha], round to middles of steps.

    >>> discretize(torch.tensor([-9.0, 0.2, 9.0]), torch.tensor(1.0), torch.tensor(4.0))
    tensor([-1.5000,  0.5000,  1.5000])
    """
    alpha = reach(steps, levels)
    clipped = torch.minimum(torch.maximum(standard, shift - alpha), shift + alpha)
    return ((clipped / steps + 0.5).round() - 0.5) * steps


def reach(steps: Tensor, levels: Tensor) -> Tensor:
    """Return alpha of equation 5: the outermost level.

    >>> reach(torch.tensor(0.5), torch.tensor(16.0)).item()
    3.75
    """
    return (levels / 2 - 0.5) * steps


class DaqFakeQuantize(DynamicFakeQuantize):
    """Quantizes each channel of each image by its mean and deviation, and a weight by its deviation.

    Tensors with a lower bound of 0 or more are treated as in the paper after a ReLU.

    >>> from srptq_plugin.quantization.grid import IntGrid
    >>> quantizer = DaqFakeQuantize("input", IntGrid(1, float_zero_point=True), bounds=Bounds.of(-1.0, 1.0))
    >>> quantizer.quantize_images(torch.tensor([[[[-1.0, 0.0, 0.0, 1.0]]]]))
    tensor([[[[-0.5642, -0.5642, -0.5642,  0.5642]]]])
    """

    options_type: ClassVar[type[Options]] = DaqOptions

    @property
    def by_channel(self) -> bool:
        """Whether each channel of an image has a mean and a deviation of its own."""
        return self.options.granularity == "channel"

    @property
    def most_bits(self) -> int:
        """The most bits of a channel."""
        return self.grid.bits

    def compute_weight_bounds(self, weight: Tensor) -> Bounds:
        """Return the outermost levels by equations 7 and 8, for a mean of 0."""
        axes, bits = channel_axes(weight, self.grid.channel_axis), self.grid.bits
        deviation = weight.double().std(axes, correction=0)
        outermost = (2 ** (bits - 1) - 0.5) * gaussian_step(bits) * deviation
        return Bounds.of(-outermost, outermost)

    def quantize_images(self, values: Tensor) -> Tensor:
        """Quantize a feature map by equations 2 to 6, with the gradient of equation 13."""
        return straight_through(values, self._round(values.detach()))

    def _round(self, values: Tensor) -> Tensor:
        axes = list(range(2 if self.by_channel else 1, values.ndim))
        mean = values.mean(axes, keepdim=True)
        deviation = values.std(axes, correction=0, keepdim=True)
        # A constant channel becomes its mean: any unit will do, since the result is multiplied by a deviation of 0.
        unit = torch.where(deviation > 0, deviation, 1.0)
        steps, levels = self.steps_and_levels(self.choose_bits(deviation))
        # After a ReLU no value is below 0, here -mean / unit: beta shifts the clip range up, to begin there.
        shift = torch.where(self.bounds.lower >= 0, (reach(steps, levels) - mean / unit).clamp(min=0), 0.0)
        return discretize((values - mean) / unit, steps, levels, shift) * deviation + mean

    def channel_bits(self, values: Tensor) -> Tensor:
        """Return the bits of each channel of each image, [N, C], or [N, 1] for whole images."""
        axes = list(range(2 if self.by_channel else 1, values.ndim))
        return self.choose_bits(values.std(axes, correction=0, keepdim=True)).flatten(1)

    def choose_bits(self, deviation: Tensor) -> Tensor:
        """Return the bits of each channel, by its deviation [N, C, 1, 1] or [N, 1, 1, 1]. Here all are the same."""
        return torch.full_like(deviation, self.grid.bits)

    def steps_and_levels(self, bits: Tensor) -> tuple[Tensor, Tensor]:
        """Return the step size and the number of levels of each channel."""
        table = bits.new_tensor([gaussian_step(n) for n in range(1, self.most_bits + 1)])
        return table[bits.long() - 1], bits.exp2()


class MixedDaqFakeQuantize(DaqFakeQuantize):
    """DAQ with some bits more or less for channels at the ends of a log-normal fit to their deviations.

    >>> from srptq_plugin.quantization.grid import IntGrid
    >>> deviation = torch.tensor([0.01, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0, 100.0]).reshape(1, 10, 1, 1)
    >>> MixedDaqFakeQuantize("input", IntGrid(4)).choose_bits(deviation).flatten().tolist()
    [3.0, 4.0, 4.0, 4.0, 4.0, 4.0, 4.0, 4.0, 3.0, 5.0]
    """

    options_type = MixedDaqOptions

    @property
    def by_channel(self) -> bool:
        """Whether each channel has a mean and a deviation of its own: always, as bits go by channel."""
        return True

    @property
    def most_bits(self) -> int:
        """The most bits of a channel."""
        return self.grid.bits + self.options.gap

    def choose_bits(self, deviation: Tensor) -> Tensor:
        """Return the bits of each channel by equations 11 and 12, image by image, at least 1.

        A constant channel has no logarithm. It does not count in the fit, and gets fewer bits.
        """
        counts = deviation > 0
        logs = torch.where(counts, deviation, 1.0).log()
        number = counts.sum(1, keepdim=True).clamp(min=1)
        mean = logs.sum(1, keepdim=True) / number
        spread = ((logs - mean) * counts).square().sum(1, keepdim=True).div(number).sqrt()
        beyond = spread * torch.special.ndtri(torch.tensor(1 - self.options.share / 2).to(deviation))
        more, less = counts & (logs > mean + beyond), ~counts | (logs < mean - beyond)
        change = more.to(deviation) - less.to(deviation)
        return (self.grid.bits + self.options.gap * change).clamp(min=1)
