"""Image files for tests, as smooth as photographs."""

from pathlib import Path

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from helpers import networks


def pixels(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    """Draw a smooth image [height, width, 3] with some noise."""
    image = networks.images(1, height, width, seed=seed)[0]
    return (255 * image).round().byte().movedim(0, -1).numpy()


def save(image: NDArray[np.uint8], path: Path) -> None:
    """Write an image file, and make its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(image).save(path)
