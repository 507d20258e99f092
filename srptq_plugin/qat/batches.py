"""The patches of each training step: they depend on its number and the seed alone, so that training can resume."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from srptq_plugin.data.images import Image, to_tensor
from srptq_plugin.data.resize import Pixels
from srptq_plugin.errors import SrptqError

Batch = tuple[Tensor, Tensor | None]


def held_out(count: int) -> int:
    """How many of the images are validated on, not trained on, where no others are given for it: one of twenty.

    >>> held_out(4), held_out(399)
    (1, 19)
    """
    return max(1, count // 20)


@dataclass(frozen=True)
class Patches:
    """Patches of low-resolution images, turned and mirrored, and of what these were made from where that is known.

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

    def __post_init__(self) -> None:
        for low in self.lows:
            height, width = low.pixels.shape[:2]
            if min(height, width) < self.patch:
                raise SrptqError(
                    f"{low.name}: {width}x{height} pixels is smaller than the patches of {self.patch}x{self.patch} "
                    f"to train on; use patches of at most {min(height, width)} or leave the image out"
                )

    def __call__(self, step: int) -> Batch:
        """The low-resolution patches of a step, and the high-resolution ones."""
        rng = np.random.default_rng([self.seed, step])
        places = [self._place(rng) for _ in range(self.batch)]
        low = [place.of(self.lows[place.image].pixels, 1) for place in places]
        if self.highs is None:
            return self._stacked(low), None
        return self._stacked(low), self._stacked(
            [place.of(self.highs[place.image].pixels, self.scale) for place in places]
        )

    def _place(self, rng: np.random.Generator) -> "_Place":
        image = int(rng.integers(len(self.lows)))
        top, left = (int(rng.integers(side - self.patch + 1)) for side in self.lows[image].pixels.shape[:2])
        return _Place(image, top, left, self.patch, int(rng.integers(4)), bool(rng.integers(2)))

    def _stacked(self, patches: Sequence[Pixels]) -> Tensor:
        return to_tensor(np.stack(patches), self.input_range)


@dataclass(frozen=True)
class _Place:
    """Where a patch is cut from which image, in low-resolution pixels, and how it is turned."""

    image: int
    top: int
    left: int
    size: int
    turns: int
    mirrored: bool

    def of(self, pixels: Pixels, factor: int) -> Pixels:
        top, left, size = (factor * each for each in (self.top, self.left, self.size))
        turned = np.rot90(pixels[top : top + size, left : left + size], self.turns)
        return turned[:, ::-1] if self.mirrored else turned
