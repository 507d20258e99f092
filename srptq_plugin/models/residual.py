"""What the reference networks share."""

from torch import nn


def conv3x3(inputs: int, outputs: int) -> nn.Conv2d:
    """Build a convolution that keeps height and width."""
    return nn.Conv2d(inputs, outputs, 3, padding=1)


def shuffle_factors(upscale: int) -> list[int]:
    """List the pixel shuffles that an upscaling is made of.

    >>> shuffle_factors(8), shuffle_factors(3)
    ([2, 2, 2], [3])
    """
    doublings = upscale.bit_length() - 1
    return [2] * doublings if upscale == 2**doublings else [upscale]
