"""Patches in other colors, for more variety than a hundred patches of photographs have.

The error of a coarse grid in an even region depends on the region's color, and PaC only balances colors that it sees.
The float network labels any image, so that the colors need not be natural.
"""

import torch
from torch import Tensor

from srptq_plugin.utils.distributed import own_indices

CONTRAST = (0.6, 1.5)
"""The smallest and the largest factor of the contrast."""


def recolor(images: Tensor, low: float, high: float, seed: int = 0) -> Tensor:
    """Return a copy with every second image in other colors, within the range from `low` to `high`.

    Channels are swapped, the contrast is changed, and each channel is shifted within the range.

    >>> images = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    >>> changed = recolor(images, 0.0, 1.0)
    >>> [torch.equal(image, copy) for image, copy in zip(images, changed)]
    [True, False, True, False]
    """
    changed = images.clone()
    # Seeded by the index among all images, so that several processes draw what a single one would.
    for index, image in zip(own_indices(len(images)), changed, strict=True):
        if index % 2:
            image.copy_(_recolor_image(image, low, high, 1_000_003 * seed + index))
    return changed


def _recolor_image(image: Tensor, low: float, high: float, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    swapped = image[torch.randperm(len(image), generator=generator)]
    mean = swapped.mean((1, 2), keepdim=True)
    draws = torch.rand(1 + len(image), generator=generator).to(image)
    least, most = CONTRAST
    # Uniform in the logarithm of the contrast.
    stretched = (swapped - mean) * least * (most / least) ** draws[0]
    # Shifts from `down` to `up` keep a channel in range. If it is wider than the range, `up` is below `down`, and the
    # final clamp cuts off both ends.
    down, up = low - stretched.amin((1, 2), keepdim=True), high - stretched.amax((1, 2), keepdim=True)
    return (stretched + down + (up - down) * draws[1:, None, None]).clamp(low, high)
