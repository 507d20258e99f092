"""MATLAB's bicubic `imresize` of 8-bit images, bit for bit: what LR images of the SR field are made with."""

import numpy as np
from numpy.typing import NDArray

from srptq_plugin.errors import SrptqError

Pixels = NDArray[np.uint8]
Reals = NDArray[np.floating]


def downscale(image: Pixels, scale: int) -> Pixels:
    """Crop to a multiple of the scale and shrink, antialiased, rounding after each direction: HR -> LR.

    >>> downscale(np.full((9, 8, 3), 7, np.uint8), 4).shape
    (2, 2, 3)
    """
    _check(scale)
    height, width = (side // scale * scale for side in image.shape[:2])
    if not height or not width:
        raise SrptqError(f"image of {image.shape[1]}x{image.shape[0]} pixels is too small to shrink by {scale}")
    rows = _rounded(_along_height(image[:height, :width], 1 / scale))
    return _rounded(_along_width(rows, 1 / scale))


def upscale(image: Pixels, scale: int) -> Pixels:
    """Enlarge, rounding once: the bicubic baseline.

    >>> upscale(np.full((2, 3, 3), 7, np.uint8), 4).shape
    (8, 12, 3)
    """
    _check(scale)
    return _rounded(_along_width(_along_height(image, scale), scale))


def _check(scale: int) -> None:
    if scale < 1:
        raise SrptqError(f"scale {scale}: give a whole number, 1 or more")


def _rounded(image: Reals) -> Pixels:
    return np.clip(np.floor(image + 0.5), 0, 255).astype(np.uint8)


def _along_width(image: Pixels | Reals, factor: float) -> Reals:
    return _along_height(image.swapaxes(0, 1), factor).swapaxes(0, 1)


def _along_height(image: Pixels | Reals, factor: float) -> Reals:
    index, weight = _taps(image.shape[0], factor)
    total = np.zeros((len(index), *image.shape[1:]))
    for rows, share in zip(index.T, weight.T, strict=True):
        total += share[:, None, None] * image[rows]
    return total


def _taps(length: int, factor: float) -> tuple[NDArray[np.intp], Reals]:
    """For each output sample the input samples and their weights; beyond an edge its pixel is repeated."""
    shrink = min(factor, 1.0)
    reach = 2 / shrink
    center = (np.arange(round(length * factor)) + 0.5) / factor - 0.5
    index = np.floor(center - reach)[:, None] + np.arange(int(np.ceil(2 * reach)) + 2)
    distance = (center[:, None] - index) * shrink
    weight = _cubic(distance)
    weight /= weight.sum(axis=1, keepdims=True)
    return np.clip(index, 0, length - 1).astype(np.intp), weight


def _cubic(distance: Reals) -> Reals:
    """Keys' kernel with a = -0.5."""
    x = np.abs(distance)
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x <= 1, near, np.where(x <= 2, far, 0.0))  # noqa: PLR2004 - the kernel's knots
