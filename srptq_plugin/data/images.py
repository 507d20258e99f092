"""Loading photographs, cutting patches, and converting 8-bit RGB arrays [height, width, 3] to tensors and back."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import skimage
import torch
from numpy.typing import NDArray

from srptq_plugin.data.image_files import list_images, read_image
from srptq_plugin.data.metrics import luma
from srptq_plugin.data.resize import Pixels, downscale, upscale
from srptq_plugin.errors import SrptqError

__all__ = [
    "Image",
    "downscale",
    "fitted",
    "list_images",
    "load_images",
    "load_patches",
    "mirrored",
    "most_detailed",
    "noise_patches",
    "random_patches",
    "read_image",
    "sample_images",
    "to_pixels",
    "to_tensor",
    "upscale",
]

SAMPLES = (
    "astronaut.png",
    "brick.png",
    "camera.png",
    "chelsea.png",
    "coffee.png",
    "coins.png",
    "grass.png",
    "gravel.png",
    "motorcycle_left.png",
    "rocket.jpg",
)
"""Photographs in scikit-image's package."""


@dataclass(frozen=True)
class Image:
    """A photograph: the name of its file and its pixels, uint8 [height, width, 3]."""

    name: str
    pixels: Pixels


def load_images(folder: str | Path, *, scale: int | None = None) -> list[Image]:
    """Load a folder of LR images. With `scale`, load HR photographs and downscale them by it."""
    images = [Image(path.name, read_image(path)) for path in list_images(folder)]
    return images if scale is None else [_downscale(image, scale) for image in images]


def sample_images(scale: int) -> list[Image]:
    """Downscale the photographs that scikit-image's package contains. Nothing is downloaded."""
    folder = Path(str(skimage.__file__)).parent / "data"
    paths = [folder / name for name in SAMPLES if (folder / name).is_file()]
    if not paths:
        raise SrptqError(f"no sample photographs in {folder}; give a folder of images")
    return [_downscale(Image(path.name, read_image(path)), scale) for path in paths]


def random_patches(
    images: Sequence[Image], count: int, size: int | tuple[int, int], seed: int, *, multiple: int = 1
) -> NDArray[np.uint8]:
    """Cut random patches, spread evenly over the images: uint8 [count, height, width, 3].

    Args:
        images: at least one.
        count: the number of patches.
        size: the side of a square, or height and width.
        seed: the same seed cuts the same patches.
        multiple: the network takes only inputs whose sides are multiples of this number.

    >>> random_patches([Image("flat", np.zeros((40, 50, 3), np.uint8))], 3, 32, seed=0).shape
    (3, 32, 32, 3)
    """
    if isinstance(size, int):
        _check_patches(images, count, size, multiple)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(images))
    sides = (size, size) if isinstance(size, int) else size
    patches = [_patch(images[order[turn % len(images)]].pixels, sides, rng) for turn in range(count)]
    return np.stack(patches)


def load_patches(
    count: int = 100,
    folder: str | Path | None = None,
    *,
    size: int = 48,
    scale: int | None = None,
    input_range: tuple[float, float] = (0.0, 1.0),
    seed: int = 0,
    channels: int = 3,
) -> torch.Tensor:
    """Cut random patches for calibration or training: float32 [count, channels, size, size].

    Args:
        count: the number of patches.
        folder: low-resolution images. By default the sample photographs, downscaled by `scale` or by 4.
        size: height and width of a patch.
        scale: downscale the images of the folder by this factor first. None for low-resolution images.
        input_range: the values of black and white at the network's input.
        seed: the same seed cuts the same patches.
        channels: 3 for RGB, or 1 for Y.

    >>> load_patches(2, size=32).shape
    torch.Size([2, 3, 32, 32])
    """
    images = sample_images(scale or 4) if folder is None else load_images(folder, scale=scale)
    return to_tensor(random_patches(images, count, size, seed), input_range, channels)


def most_detailed(patches: NDArray[np.uint8], count: int) -> NDArray[np.uint8]:
    """Return the patches whose neighboring pixels differ most, in their original order.

    >>> patches = np.zeros((3, 4, 4, 3), np.uint8)
    >>> patches[1, ::2], patches[2, 1, 1] = 200, 9
    >>> most_detailed(patches, 2).max((1, 2, 3)).tolist()
    [200, 9]
    """
    gray = patches.mean(-1)
    detail = sum(np.abs(np.diff(gray, axis=axis)).mean((1, 2)) for axis in (1, 2))
    return patches[np.sort(np.argsort(-np.asarray(detail), kind="stable")[:count])]


def noise_patches(count: int, size: int, seed: int) -> NDArray[np.uint8]:
    """Draw patches of 1/f noise, whose spectrum resembles the spectrum of photographs. No image is read.

    >>> patches = noise_patches(3, 32, seed=0)
    >>> patches.shape, patches.min(), patches.max()
    ((3, 32, 32, 3), np.uint8(0), np.uint8(255))
    """
    white = np.random.default_rng(seed).standard_normal((count, size, size, 3))
    along = np.fft.fftfreq(size)
    # The constant term has frequency 0. It counts as the lowest frequency, 1 / size, or the division would overflow.
    frequency = np.maximum(np.hypot(along[:, None], along), 1 / size)
    colored = np.fft.ifft2(np.fft.fft2(white, axes=(1, 2)) / frequency[..., None], axes=(1, 2)).real
    low, high = colored.min((1, 2, 3), keepdims=True), colored.max((1, 2, 3), keepdims=True)
    return np.round(255 * (colored - low) / (high - low)).astype(np.uint8)


def fitted(pixels: Pixels, multiple: int) -> Pixels:
    """Repeat the last row and column until both sides are multiples of `multiple`.

    >>> fitted(np.zeros((5, 8, 3), np.uint8), 4).shape
    (8, 8, 3)
    """
    missing = [(0, -side % multiple) for side in pixels.shape[:2]]
    return np.pad(pixels, [*missing, (0, 0)], mode="edge")


def mirrored(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    """Mirror an image at its last row and column until it is at least as large as (height, width).

    >>> mirrored(np.zeros((5, 8, 3), np.uint8), (6, 7)).shape
    (6, 8, 3)
    """
    missing = [(0, max(0, least - side)) for least, side in zip(size, pixels.shape[:2], strict=True)]
    return np.pad(pixels, [*missing, (0, 0)], mode="symmetric")


def to_tensor(pixels: Pixels, input_range: tuple[float, float], channels: int = 3) -> torch.Tensor:
    """Convert uint8 [..., H, W, 3] to float32 [..., channels, H, W], mapping 0 and 255 to the ends of the range.

    One channel is Y as the metrics compute it. Pixels of one channel are taken as they are.

    >>> to_tensor(np.full((1, 1, 3), 255, np.uint8), (0.0, 1.0)).flatten().tolist()
    [1.0, 1.0, 1.0]
    >>> round(to_tensor(np.full((1, 1, 3), 255, np.uint8), (0.0, 255.0), channels=1).item(), 3)
    235.0
    """
    low, high = input_range
    values = luma(pixels)[..., None] if channels < pixels.shape[-1] else pixels
    levels = torch.from_numpy(np.ascontiguousarray(values)).movedim(-1, -3).float()
    return (levels * (high - low) / 255 + low).contiguous()


def to_pixels(tensor: torch.Tensor, input_range: tuple[float, float]) -> Pixels:
    """Round and clip float [..., channels, H, W] to uint8 [..., H, W, channels].

    >>> to_pixels(torch.tensor([-0.1, 0.5, 1.1]).reshape(3, 1, 1), (0.0, 1.0)).tolist()
    [[[0, 128, 255]]]
    """
    low, high = input_range
    if not torch.isfinite(tensor).all():
        raise SrptqError("the network's output contains NaN or infinity; check its weights and its input range")
    # In float64, so that every level survives the way through `to_tensor` and back.
    levels = (tensor.detach().double() - low) * 255 / (high - low)
    return levels.round().clamp(0, 255).byte().movedim(-3, -1).contiguous().cpu().numpy()


def _downscale(image: Image, scale: int) -> Image:
    try:
        return Image(image.name, downscale(image.pixels, scale))
    except SrptqError as error:
        raise SrptqError(f"{image.name}: {error}") from error


def _patch(pixels: Pixels, sides: tuple[int, int], rng: np.random.Generator) -> Pixels:
    height, width = sides
    top = int(rng.integers(pixels.shape[0] - height + 1))
    left = int(rng.integers(pixels.shape[1] - width + 1))
    return pixels[top : top + height, left : left + width]


def _check_patches(images: Sequence[Image], count: int, size: int, multiple: int) -> None:
    if not images or count < 1 or size < 1:
        raise SrptqError(f"patches: {count} of {size} pixels from {len(images)} images; each must be 1 or more")
    if size % multiple:
        near = max(size // multiple, 1) * multiple
        raise SrptqError(f"patches: size {size} is not a multiple of {multiple}, which the network needs; use {near}")
    for image in images:
        if min(image.pixels.shape[:2]) < size:
            height, width = image.pixels.shape[:2]
            raise SrptqError(
                f"{image.name}: {width}x{height} pixels is smaller than the patches of {size}x{size}; "
                f"use patches of at most {min(width, height)} (calibration.size) or leave the image out"
            )
