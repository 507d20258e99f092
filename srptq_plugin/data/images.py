"""Photographs in, patches and tensors out: 8-bit RGB arrays of [height, width, 3] with their names."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageFile
import skimage
import torch
from numpy.typing import NDArray
from PIL.TiffImagePlugin import BITSPERSAMPLE, TiffImageFile

from srptq_plugin.data.resize import Pixels, downscale, upscale
from srptq_plugin.errors import SrptqError, first_line

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

logger = logging.getLogger(__name__)

SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
FORMATS = ("BMP", "JPEG", "PNG", "TIFF", "WEBP")
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


@dataclass(frozen=True)
class Image:
    """A photograph: the name of its file and its pixels, uint8 [height, width, 3]."""

    name: str
    pixels: Pixels


def read_image(path: str | Path) -> Pixels:
    """Read a file as 8-bit RGB: gray is replicated, 16 bits are rounded to 8, alpha is dropped."""
    try:
        with PIL.Image.open(path, formats=FORMATS) as file:
            _check_depth(file)
            return _wide(file, Path(path)) if _is_wide(file) else _rgb(file, Path(path))
    except Exception as error:  # Pillow lets all kinds through, AssertionError among them
        raise SrptqError(
            f"{path}: not a readable image ({first_line(error)}); give a PNG, JPEG, BMP, TIFF or WebP file"
        ) from error


def list_images(folder: str | Path) -> list[Path]:
    """List the image files of a folder, sorted by name."""
    folder = Path(folder)
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise SrptqError(f"images: {folder} {what}; give a folder of PNG or JPEG files")
    files = sorted(file for file in folder.iterdir() if _is_image(file))
    if not files:
        raise SrptqError(f"images: no image in {folder}; give a folder with {', '.join(sorted(SUFFIXES))} files")
    return files


def load_images(folder: str | Path, *, scale: int | None = None) -> list[Image]:
    """Load a folder of LR images or, given the scale, of HR photographs to shrink by it."""
    images = [Image(path.name, read_image(path)) for path in list_images(folder)]
    return images if scale is None else [_shrunk(image, scale) for image in images]


def sample_images(scale: int) -> list[Image]:
    """Shrink the photographs that scikit-image's own package holds; nothing is downloaded."""
    folder = Path(str(skimage.__file__)).parent / "data"
    found = [folder / name for name in SAMPLES if (folder / name).is_file()]
    if not found:
        raise SrptqError(f"no sample photographs in {folder}; give a folder of images")
    return [_shrunk(Image(path.name, read_image(path)), scale) for path in found]


def random_patches(
    images: Sequence[Image], count: int, size: int | tuple[int, int], seed: int, *, multiple: int = 1
) -> NDArray[np.uint8]:
    """Cut patches, square or of a height and width, spread evenly over the images: uint8 [count, size, size, 3].

    `multiple` is what the sides of the network's input must be a multiple of.

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
) -> torch.Tensor:
    """Cut random patches for calibration or training: float32 [count, 3, size, size].

    Args:
        count: how many patches.
        folder: low-resolution images. Without it the sample photographs, made smaller by 4 or by `scale`.
        size: height and width of a patch.
        scale: by what the images of the folder are made smaller first. None for low-resolution images.
        input_range: what black and white are at the network's input.
        seed: the same seed gives the same patches.

    >>> load_patches(2, size=32).shape
    torch.Size([2, 3, 32, 32])
    """
    images = sample_images(scale or 4) if folder is None else load_images(folder, scale=scale)
    return to_tensor(random_patches(images, count, size, seed), input_range)


def most_detailed(patches: NDArray[np.uint8], count: int) -> NDArray[np.uint8]:
    """Keep the patches whose neighboring pixels differ the most, in their order.

    >>> patches = np.zeros((3, 4, 4, 3), np.uint8)
    >>> patches[1, ::2], patches[2, 1, 1] = 200, 9
    >>> most_detailed(patches, 2).max((1, 2, 3)).tolist()
    [200, 9]
    """
    gray = patches.mean(-1)
    detail = sum(np.abs(np.diff(gray, axis=axis)).mean((1, 2)) for axis in (1, 2))
    return patches[np.sort(np.argsort(-np.asarray(detail), kind="stable")[:count])]


def noise_patches(count: int, size: int, seed: int) -> NDArray[np.uint8]:
    """Draw patches without any image: noise whose amplitudes fall with the frequency, as photographs' do.

    >>> patches = noise_patches(3, 32, seed=0)
    >>> patches.shape, patches.min(), patches.max()
    ((3, 32, 32, 3), np.uint8(0), np.uint8(255))
    """
    white = np.random.default_rng(seed).standard_normal((count, size, size, 3))
    along = np.fft.fftfreq(size)
    frequency = np.maximum(np.hypot(along[:, None], along), 1 / size)
    colored = np.fft.ifft2(np.fft.fft2(white, axes=(1, 2)) / frequency[..., None], axes=(1, 2)).real
    low, high = colored.min((1, 2, 3), keepdims=True), colored.max((1, 2, 3), keepdims=True)
    return np.round(255 * (colored - low) / (high - low)).astype(np.uint8)


def fitted(pixels: Pixels, multiple: int) -> Pixels:
    """Repeat the last row and column until both sides are multiples.

    >>> fitted(np.zeros((5, 8, 3), np.uint8), 4).shape
    (8, 8, 3)
    """
    short = [(0, -side % multiple) for side in pixels.shape[:2]]
    return np.pad(pixels, [*short, (0, 0)], mode="edge")


def mirrored(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    """Mirror an image at its last row and column until it is as large as a size.

    >>> mirrored(np.zeros((5, 8, 3), np.uint8), (6, 7)).shape
    (6, 8, 3)
    """
    short = [(0, max(0, side - have)) for side, have in zip(size, pixels.shape[:2], strict=True)]
    return np.pad(pixels, [*short, (0, 0)], mode="symmetric")


def to_tensor(pixels: Pixels, input_range: tuple[float, float]) -> torch.Tensor:
    """Turn uint8 [..., H, W, 3] into float32 [..., 3, H, W] whose 0 and 255 are the ends of the range.

    >>> to_tensor(np.full((1, 1, 3), 255, np.uint8), (0.0, 1.0)).flatten().tolist()
    [1.0, 1.0, 1.0]
    """
    low, high = input_range
    levels = torch.from_numpy(np.ascontiguousarray(pixels)).movedim(-1, -3).float()
    return (levels * (high - low) / 255 + low).contiguous()


def to_pixels(tensor: torch.Tensor, input_range: tuple[float, float]) -> Pixels:
    """Round and clip float [..., 3, H, W] to uint8 [..., H, W, 3].

    >>> to_pixels(torch.tensor([-0.1, 0.5, 1.1]).reshape(3, 1, 1), (0.0, 1.0)).tolist()
    [[[0, 128, 255]]]
    """
    low, high = input_range
    if not torch.isfinite(tensor).all():
        raise SrptqError("the network's output holds NaN or infinity; check its weights and its input range")
    levels = (tensor.detach().double() - low) * 255 / (high - low)
    return levels.round().clamp(0, 255).byte().movedim(-3, -1).contiguous().cpu().numpy()


def _is_image(file: Path) -> bool:
    return file.suffix.lower() in SUFFIXES and not file.name.startswith(".") and file.is_file()


def _shrunk(image: Image, scale: int) -> Image:
    try:
        return Image(image.name, downscale(image.pixels, scale))
    except SrptqError as error:
        raise SrptqError(f"{image.name}: {error}") from error


def _patch(pixels: Pixels, sides: tuple[int, int], rng: np.random.Generator) -> Pixels:
    height, width = sides
    top, left = (int(rng.integers(have - side + 1)) for have, side in zip(pixels.shape[:2], sides, strict=True))
    return pixels[top : top + height, left : left + width]


def _check_patches(images: Sequence[Image], count: int, size: int, multiple: int) -> None:
    if not images or count < 1 or size < 1:
        raise SrptqError(f"patches: {count} of {size} pixels from {len(images)} images; each must be 1 or more")
    if size % multiple:
        near = max(size // multiple, 1) * multiple
        raise SrptqError(f"patches: size {size} is no multiple of {multiple}, which the network needs; use {near}")
    for image in images:
        if min(image.pixels.shape[:2]) < size:
            height, width = image.pixels.shape[:2]
            raise SrptqError(
                f"{image.name}: {width}x{height} pixels is smaller than the patches of {size}x{size}; "
                f"use patches of at most {min(width, height)} (calibration.size) or leave the image out"
            )


def _check_depth(file: PIL.ImageFile.ImageFile) -> None:
    """Refuse what Pillow misreads without a word: TIFF levels of 12 bits, or 16-bit colors in planes."""
    if isinstance(file, TiffImageFile):
        bits = max(file.tag_v2.get(BITSPERSAMPLE, (1,)))
        if bits > 8 and not (bits == 16 and _is_wide(file)):  # noqa: PLR2004 - bits
            raise ValueError(f"levels of {bits} bits in a layout that cannot be read; save it with 8 bits")


def _rgb(file: PIL.ImageFile.ImageFile, path: Path) -> Pixels:
    if file.has_transparency_data:
        return _without_alpha(np.asarray(file.convert("RGBA")), path)
    return np.array(file.convert("RGB"))


def _wide(file: PIL.ImageFile.ImageFile, path: Path) -> Pixels:
    gray = file.mode.startswith("I")
    levels = np.asarray(file).astype(np.int64) if gray else _sixteen_bits(file, path)
    if levels.min() < 0 or levels.max() > np.iinfo(np.uint16).max:
        raise ValueError("levels of more than 16 bits")
    pixels = ((levels + 128) // 257).astype(np.uint8)
    return np.stack([pixels] * 3, axis=-1) if gray else _without_alpha(pixels, path)


def _without_alpha(pixels: Pixels, path: Path) -> Pixels:
    if np.any(pixels[..., 3:] != np.iinfo(np.uint8).max):
        logger.warning("%s: transparency dropped; the colors under it are used as they are", path)
    return np.ascontiguousarray(pixels[..., :3])


def _is_wide(file: PIL.ImageFile.ImageFile) -> bool:
    return file.mode.startswith("I") or _raw_mode(file)[:-1] in {"RGB;16", "RGBA;16"}


def _raw_mode(file: PIL.ImageFile.ImageFile) -> str:
    args = file.tile[0].args if file.tile else None
    return str(args[0] if isinstance(args, tuple) and args else args)


def _sixteen_bits(file: PIL.ImageFile.ImageFile, path: Path) -> NDArray[np.int64]:
    """Pillow keeps the upper byte of a 16-bit color; reading with the bytes swapped gives the lower."""
    mode = _raw_mode(file)
    swapped = mode[:-1] + ("L" if mode.endswith("B") else "B")
    upper = np.asarray(file).astype(np.int64)
    with PIL.Image.open(path, formats=FORMATS) as again:
        again.tile = [
            tile._replace(args=(swapped, *tile.args[1:]) if isinstance(tile.args, tuple) else swapped)
            for tile in again.tile
        ]
        return upper * 256 + np.asarray(again)
