"""Pictures as `data:` addresses, which a page holds itself, and maps of differences."""

from base64 import b64encode
from io import BytesIO

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from srptq_plugin.data.resize import Pixels

ENDS = (2, 4, 8, 16, 32, 64, 128, 255)
"""The levels at which the scale of difference maps may end."""
STOPS = ((0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164))
"""The colors of difference maps from no difference on: the color map `inferno`, which works with color blindness."""


def address_of(pixels: Pixels) -> str:
    """Return an image as the address of a PNG file.

    >>> address_of(np.zeros((2, 2, 3), np.uint8))[:30]
    'data:image/png;base64,iVBORw0K'
    """
    squeezed = pixels[..., 0] if pixels.shape[-1] == 1 else pixels
    return _encode(PIL.Image.fromarray(squeezed))


def differences(first: Pixels, second: Pixels) -> NDArray[np.uint8]:
    """Return the largest difference of the channels of each pixel, in levels."""
    return np.abs(first.astype(np.int16) - second).max(-1).astype(np.uint8)


def end_of_scale(maps: "list[NDArray[np.uint8]]") -> int:
    """Return the level at which the scale of maps ends: 999 of 1000 pixels have colors of their own.

    >>> end_of_scale([np.full((4, 4), 5, np.uint8)]), end_of_scale([])
    (8, 2)
    """
    most = np.percentile(np.concatenate([levels.ravel() for levels in maps]), 99.9) if maps else 0
    return next(end for end in ENDS if end >= most)


def map_address(levels: NDArray[np.uint8], end: int) -> str:
    """Return the colored map of differences as the address of a PNG file. Levels from `end` on are the lightest."""
    shades = np.minimum(levels.astype(np.int32) * 255 // end, 255).astype(np.uint8)
    picture = PIL.Image.fromarray(shades, "P")
    picture.putpalette(_palette().tobytes())
    return _encode(picture)


def _palette() -> NDArray[np.uint8]:
    places = np.linspace(0, 1, len(STOPS))
    channels = [np.interp(np.linspace(0, 1, 256), places, channel) for channel in zip(*STOPS, strict=True)]
    return np.stack(channels, axis=1).round().astype(np.uint8)


def _encode(picture: PIL.Image.Image) -> str:
    buffer = BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return f"data:image/png;base64,{b64encode(buffer.getvalue()).decode('ascii')}"
