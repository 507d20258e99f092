"""The patches of a training step: a function of its number and the seed, so that training can resume."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from srptq_plugin.data.images import Image, to_tensor
from srptq_plugin.data.resize import Pixels
from srptq_plugin.errors import SrptqError

Batch = tuple[Tensor, Tensor | None]
"""Low-resolution patches, and the high-resolution ones if there are labels."""


def held_out(count: int) -> int:
    """Return how many of the images to validate on and not to train on: one of twenty, at least one.

    >>> held_out(4), held_out(399)
    (1, 19)
    """
    return max(1, count // 20)


@dataclass(frozen=True)
class Patches:
    """Random patches of low-resolution images, turned and mirrored, with the same patches of the originals if known.

    >>> flat = Image("flat", np.zeros((20, 24, 3), np.uint8))
    >>> low, high = Patches([flat], None, scale=4, patch=16, batch=2, input_range=(0.0, 1.0))(step=0)
    >>> low.shape, high
    (torch.Size([2, 3, 16, 16]), None)
    """

    lows: Sequence[Image]
    highs: Sequence[Image] | None
    scale: int
    patch: int
    batch: int
    input_range: tuple[float, float]
    seed: int = 0
    channels: int = 3

    def __post_init__(self) -> None:
        for low in self.lows:
            height, width = low.pixels.shape[:2]
            if min(height, width) < self.patch:
                raise SrptqError(
                    f"{low.name}: {width}x{height} pixels is smaller than the patches of {self.patch}x{self.patch} "
                    f"to train on; use patches of at most {min(height, width)} or leave the image out"
                )

    def __call__(self, step: int) -> Batch:
        """Return the low-resolution patches of a step, and the high-resolution ones or None."""
        rng = np.random.default_rng([self.seed, step])
        crops = [self._draw(rng) for _ in range(self.batch)]
        low = [crop.cut(self.lows[crop.image].pixels, 1) for crop in crops]
        if self.highs is None:
            return self._stack(low), None
        high = [crop.cut(self.highs[crop.image].pixels, self.scale) for crop in crops]
        return self._stack(low), self._stack(high)

    def _draw(self, rng: np.random.Generator) -> "_Crop":
        # The order of these draws is part of the format of a checkpoint: a resumed training must see the same patches.
        image = int(rng.integers(len(self.lows)))
        height, width = self.lows[image].pixels.shape[:2]
        top = int(rng.integers(height - self.patch + 1))
        left = int(rng.integers(width - self.patch + 1))
        return _Crop(image, top, left, self.patch, int(rng.integers(4)), bool(rng.integers(2)))

    def _stack(self, patches: Sequence[Pixels]) -> Tensor:
        return to_tensor(np.stack(patches), self.input_range, self.channels)


@dataclass(frozen=True)
class _Crop:
    """The image, the position in low-resolution pixels and the orientation of a patch."""

    image: int
    top: int
    left: int
    size: int
    turns: int
    mirrored: bool

    def cut(self, pixels: Pixels, factor: int) -> Pixels:
        """Cut the patch from an image that is `factor` times as large as the low-resolution one."""
        top, left, size = factor * self.top, factor * self.left, factor * self.size
        turned = np.rot90(pixels[top : top + size, left : left + size], self.turns)
        return turned[:, ::-1] if self.mirrored else turned
