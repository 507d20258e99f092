"""Layers that the reference networks share."""

from collections.abc import Callable

from torch import nn

Conv = Callable[[int, int], nn.Module]
"""Builds a layer from its numbers of input and output channels."""


def conv3x3(inputs: int, outputs: int) -> nn.Conv2d:
    """Build a 3 x 3 convolution that keeps height and width."""
    return nn.Conv2d(inputs, outputs, 3, padding=1)


def shuffle_factors(upscale: int) -> list[int]:
    """Return the factors of the pixel shuffles that upscale in steps.

    >>> shuffle_factors(8), shuffle_factors(3)
    ([2, 2, 2], [3])
    """
    doublings = upscale.bit_length() - 1
    return [2] * doublings if upscale == 2**doublings else [upscale]
