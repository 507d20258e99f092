"""Patches in other colors: calibration sees more of them than a hundred patches of photographs have.

What a coarse grid does to an even region depends on its color, and PaC can only balance those that it sees. The float
network labels any image, so the colors need not be natural.
"""

import torch
from torch import Tensor

from srptq_plugin.utils.distributed import own_indices

CONTRAST = (0.6, 1.5)


def recolored(images: Tensor, low: float, high: float, seed: int = 0) -> Tensor:
    """Every second image in other colors: channels swapped, contrast changed, brightness moved within the range.

    >>> images = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    >>> changed = recolored(images, 0.0, 1.0)
    >>> [bool((one == other).all()) for one, other in zip(images, changed)]
    [True, False, True, False]
    """
    changed = images.clone()
    for place, image in zip(own_indices(len(images)), changed, strict=True):
        if place % 2:
            image.copy_(_recolored(image, low, high, 1_000_003 * seed + place))
    return changed


def _recolored(image: Tensor, low: float, high: float, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    swapped = image[torch.randperm(len(image), generator=generator)]
    mean = swapped.mean((1, 2), keepdim=True)
    draws = torch.rand(1 + len(image), generator=generator).to(image)
    least, most = CONTRAST
    stretched = (swapped - mean) * least * (most / least) ** draws[0]
    down, up = low - stretched.amin((1, 2), keepdim=True), high - stretched.amax((1, 2), keepdim=True)
    return (stretched + down + (up - down) * draws[1:, None, None]).clamp(low, high)
