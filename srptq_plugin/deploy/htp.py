"""Operations on 8-bit integers as Qualcomm's HTP computes them, found by measuring its emulator."""

import math
from dataclasses import replace

import torch
from torch import Tensor, nn

from srptq_plugin.quantization.grid import INTEGER_WIDTH, Bounds, IntGrid, QParams, dequantize, project, quantize

CONV_BITS, SUM_BITS = 15, 13
"""Bits behind the point of multipliers: of convolutions, and of sums whose steps add up to the output's."""
FINE = 4096
"""A convolution's sums are cut to at least so many steps on the way to an end of the output's levels."""
ALL_LEVELS = 512
"""The levels to which they are cut alike on either side, if no activation has another slope below zero."""
WEIGHT = IntGrid(8, signed=True, symmetric=True, narrow_range=True)
OFFSET_BITS = 8
"""How many bits fewer the offset of a sum has than its multipliers."""


class HtpConv(nn.Module):
    """The output of a convolution, with the leaky ReLU or PReLU behind it. Its sums are cut to few bits.

    >>> one = IntGrid(8, signed=True, symmetric=True)
    >>> image, weight = (QParams(torch.tensor(scale), torch.tensor(0.0), one) for scale in (1.0, 0.01))
    >>> HtpConv(image, weight, image)(torch.tensor([1.49, 1.56]).reshape(1, 1, 1, 2)).flatten()
    tensor([1.4798, 1.5597])
    """

    def __init__(self, image: QParams, weight: QParams, output: QParams, slopes: Tensor | None = None) -> None:
        super().__init__()
        self._steps = (image.scale.double() * weight.scale.double()).reshape(-1)
        self._offsets = torch.zeros_like(self._steps)
        ratios, zero = self._steps / output.scale.double(), float(output.zero_point)
        self._above = self._below = _multiplier(ratios, torch.tensor(ALL_LEVELS))
        if slopes is not None:
            up, down = torch.tensor(output.grid.qmax - zero), torch.tensor(zero - output.grid.qmin)
            self._above = _multiplier(ratios, up)
            self._below = _multiplier(ratios * slopes.double(), torch.where(slopes < 0, up, down))
        self._output = float(output.scale)

    def disturb(self, generator: torch.Generator) -> None:
        """Add a unit to the sums of a third of the channels, and take it from another: HTP's biases are off by one."""
        self._offsets = torch.randint(-1, 2, self._steps.shape, generator=generator).double()

    def forward(self, sums: Tensor) -> Tensor:
        """Return the output before it is rounded to its levels."""
        shape = (1, -1, *[1] * (sums.ndim - 2))
        parts = self._steps, self._offsets, *self._above, *self._below
        steps, offsets, *multipliers = (part.to(sums.device).reshape(shape) for part in parts)
        integers = torch.round(sums.double() / steps) + offsets
        above, below = (_multiplied(integers, *multipliers[side : side + 2]) for side in (0, 2))
        return (torch.where(integers < 0, below, above) * self._output).to(sums.dtype)


def affine(values: Tensor, bits: int = INTEGER_WIDTH) -> QParams:
    """Return the levels on which a file holds constants, between the least and the largest of them and 0."""
    low, high = values.amin().clamp(max=0), values.amax().clamp(min=0)
    return project(Bounds.of(low, high), IntGrid(bits))


def per_channel(weight: Tensor, axis: int) -> QParams:
    """Return the levels on which a file holds a weight that the plan leaves out, such as a mean shift's."""
    largest = weight.abs().transpose(0, axis).flatten(1).amax(1)
    return project(Bounds.of(-largest, largest), replace(WEIGHT, channel_axis=axis))


def in_integers(values: Tensor) -> Tensor:
    """Return constants as a file of 8 bits holds them.

    >>> in_integers(torch.tensor([0.2, 0.1004]))
    tensor([0.2000, 0.1004])
    """
    levels = affine(values)
    return dequantize(quantize(values, levels), levels)


def _multiplier(ratios: Tensor, levels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the unit to which sums are cut, and the factor of the rest, from sums to levels.

    Args:
        ratios: The step of the sums relative to the output's. It is negative behind a negative slope.
        levels: How many levels the output has on its side of zero.
    """
    cut = 2.0 ** torch.floor(torch.log2(levels / FINE / ratios.abs()))
    cut = torch.where(cut.isfinite() & (cut > 0), cut, 1.0)
    return cut, torch.round(ratios * cut * 2.0**CONV_BITS) / 2.0**CONV_BITS


def _multiplied(integers: Tensor, cut: Tensor, factor: Tensor) -> Tensor:
    # Half a unit makes up for the part cut off, on average.
    return (torch.floor(integers / cut) + 0.5) * factor


class HtpSum(nn.Module):
    """A sum of two tensors by multipliers of integers and an offset for their zero points, halves up."""

    def __init__(self, first: QParams, second: QParams, output: QParams, sign: int) -> None:
        super().__init__()
        self._inputs, self._step, self._sign = (first, second), float(output.scale), sign
        ratios = [float(part.scale) / self._step for part in self._inputs]
        bits = min(SUM_BITS - math.floor(math.log2(sum(ratios))), CONV_BITS)
        self._factors = [round(ratio * 2.0**bits) / 2.0**bits for ratio in ratios]
        zeros = [float(part.zero_point) for part in (first, second, output)]
        offset = zeros[2] - zeros[0] * self._factors[0] - sign * zeros[1] * self._factors[1]
        unit = 2.0 ** (bits - OFFSET_BITS)
        # What rounding the offset adds to a sum of integers that count from their zero points.
        self._error = math.floor(offset * unit + 0.5) / unit - offset

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Add, or subtract, two tensors that lie on the levels of their quantizers."""
        parts = ((values, part) for values, part in zip((first, second), self._inputs, strict=True))
        integers = [torch.round(values.double() / float(part.scale)) for values, part in parts]
        total = integers[0] * self._factors[0] + self._sign * integers[1] * self._factors[1] + self._error
        return (torch.floor(total + 0.5) * self._step).to(first.dtype)
