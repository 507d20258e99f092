"""Image files: listing a folder, and reading pixels as 8-bit RGB."""

import logging
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageFile
from numpy.typing import NDArray
from PIL.TiffImagePlugin import BITSPERSAMPLE, TiffImageFile

from srptq_plugin.data.resize import Pixels
from srptq_plugin.errors import SrptqError, first_line

logger = logging.getLogger(__name__)

SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
FORMATS = ("BMP", "JPEG", "PNG", "TIFF", "WEBP")
"""The only formats that Pillow may detect. Its other readers are never run on a user's file."""


def read_image(path: str | Path) -> Pixels:
    """Read a file as 8-bit RGB. Replicate gray, round 16 bits to 8 and drop alpha."""
    try:
        with PIL.Image.open(path, formats=FORMATS) as file:
            _check_depth(file)
            return _read_wide(file, Path(path)) if _is_wide(file) else _read_rgb(file, Path(path))
    except Exception as error:  # damaged files make Pillow raise anything, AssertionError included
        raise SrptqError(
            f"{path}: not a readable image ({first_line(error)}); give a PNG, JPEG, BMP, TIFF or WebP file"
        ) from error


def list_images(folder: str | Path) -> list[Path]:
    """List the image files of a folder, sorted by name."""
    folder = Path(folder)
    if not folder.is_dir():
        problem = "is a file" if folder.exists() else "does not exist"
        raise SrptqError(f"images: {folder} {problem}; give a folder of PNG or JPEG files")
    files = sorted(file for file in folder.iterdir() if _is_image(file))
    if not files:
        raise SrptqError(f"images: no image in {folder}; give a folder with {', '.join(sorted(SUFFIXES))} files")
    return files


def _is_image(file: Path) -> bool:
    return file.suffix.lower() in SUFFIXES and not file.name.startswith(".") and file.is_file()


def _check_depth(file: PIL.ImageFile.ImageFile) -> None:
    """Refuse TIFF files that Pillow misreads silently: levels of 12 bits, or 16-bit colors in planes."""
    if isinstance(file, TiffImageFile):
        bits = max(file.tag_v2.get(BITSPERSAMPLE, (1,)))
        if bits > 8 and not (bits == 16 and _is_wide(file)):  # noqa: PLR2004 - bits
            raise ValueError(f"levels of {bits} bits in a layout that cannot be read; save it with 8 bits")


def _read_rgb(file: PIL.ImageFile.ImageFile, path: Path) -> Pixels:
    if file.has_transparency_data:
        return _drop_alpha(np.asarray(file.convert("RGBA")), path)
    return np.array(file.convert("RGB"))


def _read_wide(file: PIL.ImageFile.ImageFile, path: Path) -> Pixels:
    gray = file.mode.startswith("I")
    levels = np.asarray(file).astype(np.int64) if gray else _read_sixteen_bits(file, path)
    if levels.min() < 0 or levels.max() > np.iinfo(np.uint16).max:
        raise ValueError("levels of more than 16 bits")
    # 65535 = 257 * 255, so dividing by 257 maps both ends exactly. Adding half of 257 first rounds to nearest.
    pixels = ((levels + 128) // 257).astype(np.uint8)
    return np.stack([pixels] * 3, axis=-1) if gray else _drop_alpha(pixels, path)


def _drop_alpha(pixels: Pixels, path: Path) -> Pixels:
    if np.any(pixels[..., 3:] != np.iinfo(np.uint8).max):
        logger.warning("%s: transparency dropped; the colors under it are used", path)
    return np.ascontiguousarray(pixels[..., :3])


def _is_wide(file: PIL.ImageFile.ImageFile) -> bool:
    return file.mode.startswith("I") or _raw_mode(file)[:-1] in {"RGB;16", "RGBA;16"}


def _raw_mode(file: PIL.ImageFile.ImageFile) -> str:
    args = file.tile[0].args if file.tile else None
    return str(args[0] if isinstance(args, tuple) and args else args)


def _read_sixteen_bits(file: PIL.ImageFile.ImageFile, path: Path) -> NDArray[np.int64]:
    """Read both bytes of 16-bit colors, of which Pillow returns only the upper one."""
    mode = _raw_mode(file)
    # Trick: open the file again and claim the other byte order. The byte that Pillow takes for the upper is the lower.
    swapped = mode[:-1] + ("L" if mode.endswith("B") else "B")
    upper = np.asarray(file).astype(np.int64)
    with PIL.Image.open(path, formats=FORMATS) as second:
        second.tile = [
            tile._replace(args=(swapped, *tile.args[1:]) if isinstance(tile.args, tuple) else swapped)
            for tile in second.tile
        ]
        return upper * 256 + np.asarray(second)
