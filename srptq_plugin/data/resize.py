"""MATLAB's bicubic `imresize` of 8-bit images, bit for bit. The LR images of SR benchmarks are made with it."""

import numpy as np
from numpy.typing import NDArray

from srptq_plugin.errors import SrptqError

Pixels = NDArray[np.uint8]
Reals = NDArray[np.floating]


def downscale(image: Pixels, scale: int) -> Pixels:
    """Crop an HR image to a multiple of the scale and shrink it to LR, with antialiasing.

    >>> downscale(np.full((9, 8, 3), 7, np.uint8), 4).shape
    (2, 2, 3)
    """
    _check(scale)
    height, width = (side // scale * scale for side in image.shape[:2])
    if not height or not width:
        raise SrptqError(f"image of {image.shape[1]}x{image.shape[0]} pixels is too small to shrink by {scale}")
    # MATLAB resizes uint8 images one direction at a time, height first, and rounds after each of them.
    rows = _round(_resize_height(image[:height, :width], 1 / scale))
    return _round(_resize_width(rows, 1 / scale))


def upscale(image: Pixels, scale: int) -> Pixels:
    """Enlarge an image, rounding once. This is the bicubic baseline.

    >>> upscale(np.full((2, 3, 3), 7, np.uint8), 4).shape
    (8, 12, 3)
    """
    _check(scale)
    return _round(_resize_width(_resize_height(image, scale), scale))


def _check(scale: int) -> None:
    if scale < 1:
        raise SrptqError(f"scale {scale}: give a whole number, 1 or more")


def _round(image: Reals) -> Pixels:
    # MATLAB rounds halves up. NumPy's round would take the even neighbor.
    return np.clip(np.floor(image + 0.5), 0, 255).astype(np.uint8)


def _resize_width(image: Pixels | Reals, factor: float) -> Reals:
    return _resize_height(image.swapaxes(0, 1), factor).swapaxes(0, 1)


def _resize_height(image: Pixels | Reals, factor: float) -> Reals:
    index, weight = _taps(image.shape[0], factor)
    total = np.zeros((len(index), *image.shape[1:]))
    # Tap by tap: the order of a float sum decides which way a half rounds, and this order reproduces MATLAB's images.
    for rows, share in zip(index.T, weight.T, strict=True):
        total += share[:, None, None] * image[rows]
    return total


def _taps(length: int, factor: float) -> tuple[NDArray[np.intp], Reals]:
    """Return the input samples that each output sample reads, and their weights, shaped [outputs, taps]."""
    # Antialiasing: the kernel reaches 2 pixels to either side when enlarging, and 2 / factor when shrinking.
    shrink = min(factor, 1.0)
    reach = 2 / shrink
    # Pixel centers lie at i + 0.5, so output i reads around (i + 0.5) / factor - 0.5.
    center = (np.arange(round(length * factor)) + 0.5) / factor - 0.5
    # A few taps more than the kernel covers. Their weight is 0.
    index = np.floor(center - reach)[:, None] + np.arange(int(np.ceil(2 * reach)) + 2)
    distance = (center[:, None] - index) * shrink
    weight = _cubic(distance)
    # Invariant: weights sum to 1, so flat images stay flat.
    weight /= weight.sum(axis=1, keepdims=True)
    # Beyond the border, the last pixel repeats.
    return np.clip(index, 0, length - 1).astype(np.intp), weight


def _cubic(distance: Reals) -> Reals:
    """Evaluate Keys' cubic convolution kernel with a = -0.5 (Keys, 1981)."""
    x = np.abs(distance)
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x <= 1, near, np.where(x <= 2, far, 0.0))  # noqa: PLR2004 - the kernel's knots
