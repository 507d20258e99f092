"""PSNR and SSIM as SR papers report them: on unrounded Y of BT.601 studio range, without a border of `scale` pixels."""

import math

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from srptq_plugin.errors import SrptqError

Reals = NDArray[np.float64]
Array = NDArray[np.floating | np.integer]

PEAK = 255.0
BELL: Reals = np.exp(-(np.arange(-5.0, 6.0) ** 2) / (2 * 1.5**2))
WINDOW: Reals = BELL / BELL.sum()
"""SSIM's Gaussian window of 11 x 11 pixels with sigma 1.5. It is separable, so one axis of it is enough."""


def luma(pixels: NDArray[np.uint8]) -> Reals:
    """Compute Y of 8-bit RGB as MATLAB's `rgb2ycbcr` does, without rounding. Pixels of one channel are Y already.

    >>> luma(np.full((1, 1, 3), 255, np.uint8)).round(6).tolist()
    [[235.0]]
    """
    if pixels.shape[-1] == 1:
        return pixels[..., 0].astype(np.float64)
    return 16 + pixels @ np.array([65.481, 128.553, 24.966]) / 255


def psnr_y(output: NDArray[np.uint8], reference: NDArray[np.uint8], border: int) -> float:
    """Compute the PSNR of two 8-bit images on Y, in dB. Each is RGB, or Y alone.

    Args:
        output: the image that a network computed.
        reference: the HR image.
        border: pixels to leave out on every side, usually the scale.

    >>> image = np.zeros((16, 16, 3), np.uint8)
    >>> psnr_y(image, image, border=4)
    inf
    """
    return psnr(*_crop_luma(output, reference, border), PEAK)


def ssim_y(output: NDArray[np.uint8], reference: NDArray[np.uint8], border: int) -> float:
    """Compute the SSIM of two 8-bit images on Y (Wang et al. 2004), over windows that lie inside the border.

    >>> image = np.zeros((19, 19, 3), np.uint8)
    >>> ssim_y(image, image, border=4)
    1.0
    """
    x, y = _crop_luma(output, reference, border)
    if min(x.shape) < len(WINDOW):
        raise SrptqError(f"SSIM: {x.shape[1]}x{x.shape[0]} pixels inside the border; at least 11x11 are needed")
    return float(_similarity(x, y).mean())


def psnr(a: Array, b: Array, peak: float) -> float:
    """Compute the PSNR of two arrays whose values span `peak`, in dB. Equal arrays give infinity.

    >>> round(psnr(np.zeros(4), np.ones(4), peak=255.0), 3)
    48.131
    """
    return decibels(float(np.mean(_difference(a, b) ** 2)), peak)


def decibels(error: float, peak: float) -> float:
    """Convert a mean squared error to PSNR in dB.

    >>> decibels(0.0, 255.0), decibels(255.0**2, 255.0), decibels(math.inf, 255.0)
    (inf, 0.0, -inf)
    """
    if error in (0, math.inf):
        return -math.inf if error else math.inf
    return 10 * math.log10(peak**2 / error)


def level_differences(a: Array, b: Array, peak: float) -> tuple[float, float]:
    """Return the largest and the 99.9th-percentile difference, in levels of an 8-bit image.

    >>> level_differences(np.zeros(4), np.full(4, 0.2), peak=1.0)
    (51.0, 51.0)
    """
    levels = np.abs(_difference(a, b)) * (PEAK / peak)
    return float(levels.max()), float(np.percentile(levels, 99.9))


def _difference(a: Array, b: Array) -> Reals:
    if a.shape != b.shape or not a.size:
        raise SrptqError(f"cannot compare shapes {a.shape} and {b.shape}; they must be equal and not empty")
    # In float64 before subtracting: differences of uint8 would wrap around.
    return a.astype(np.float64) - b


def _crop_luma(output: NDArray[np.uint8], reference: NDArray[np.uint8], border: int) -> tuple[Reals, Reals]:
    if output.shape[:2] != reference.shape[:2]:
        raise SrptqError(
            f"output is {output.shape[:2]} and reference {reference.shape[:2]} (height, width); "
            "the reference must be exactly scale times the LR image"
        )
    if min(output.shape[:2]) <= 2 * border:
        raise SrptqError(f"image of {output.shape[:2]} (height, width) has no pixel inside a border of {border}")
    inside = (slice(border, output.shape[0] - border), slice(border, output.shape[1] - border))
    return luma(output[inside]), luma(reference[inside])


def _similarity(x: Reals, y: Reals) -> Reals:
    """Return the SSIM of each window."""
    # K1 = 0.01 and K2 = 0.03 keep the quotients finite where both images are dark or flat.
    c1, c2 = (0.01 * PEAK) ** 2, (0.03 * PEAK) ** 2
    mean_x, mean_y = _blur(x), _blur(y)
    # Local variances as E[x^2] - E[x]^2. In float64 the cancellation costs nothing at levels up to 255.
    variances = _blur(x * x) - mean_x**2 + _blur(y * y) - mean_y**2
    covariance = _blur(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    return luminance * (2 * covariance + c2) / (variances + c2)


def _blur(image: Reals) -> Reals:
    # Valid area only: without padding, the result is len(WINDOW) - 1 pixels smaller on each axis.
    rows = sliding_window_view(image, len(WINDOW), axis=0) @ WINDOW
    return sliding_window_view(rows, len(WINDOW), axis=1) @ WINDOW
