"""Worst-case images: pixels at both ends of their range, where the sums of products are largest."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

WHITE = 255


def patterns(height: int, width: int) -> Mapping[str, NDArray[np.uint8]]:
    """Draw a white image, checkers of another size in each color, and random pixels of 0 and 255.

    >>> {name: pixels.shape for name, pixels in patterns(2, 3).items()}
    {'white': (2, 3, 3), 'checkers': (2, 3, 3), 'noise': (2, 3, 3)}
    """
    rows, columns = np.mgrid[:height, :width]
    checkers = np.stack([(rows // side + columns // side) % 2 for side in (1, 2, 4)], axis=2)
    noise = np.random.default_rng(0).integers(0, 2, (height, width, 3))
    masks = {"white": np.ones_like(noise), "checkers": checkers, "noise": noise}
    return {name: (mask * WHITE).astype(np.uint8) for name, mask in masks.items()}
