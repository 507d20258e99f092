"""Test pairs from a folder: low-resolution images, their high-resolution originals, and problems with others."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from srptq_plugin.data.images import Image, downscale, list_images, read_image
from srptq_plugin.data.metrics import WINDOW
from srptq_plugin.data.resize import Pixels
from srptq_plugin.errors import SrptqError, at_once

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pair:
    """A low-resolution image and its high-resolution original."""

    low: Image
    high: Image


@dataclass(frozen=True)
class Pairs:
    """The pairs that can be scored, and a line about each image that cannot."""

    usable: tuple[Pair, ...]
    skipped: tuple[str, ...]


def load_pairs(data: Path, scale: int, *, strict: bool = False) -> Pairs:
    """Load test pairs from a folder, and warn of images that cannot be scored.

    Args:
        data: A folder with `HR_x4` or `HR`, and `LR_x4`, or a folder of photographs, which are cropped to a multiple of
            the scale and downscaled.
        strict: Raise an error if any image cannot be scored. Without it, raise one only if no image can be scored.
    """
    usable: list[Pair] = []
    skipped: list[str] = []
    for load in _loaders(data, scale):
        try:
            usable.append(load())
        except SrptqError as error:
            skipped.append(str(error))
    if skipped and (strict or not usable):
        raise SrptqError(at_once([_refusal(data, len(skipped), len(usable)), *skipped]))
    for problem in skipped:
        logger.warning("left out: %s", problem)
    return Pairs(tuple(usable), tuple(skipped))


def _refusal(data: Path, skipped: int, usable: int) -> str:
    cure = "; without `strict` they are left out" if usable else ""
    return f"{data}: {skipped} of {skipped + usable} images cannot be scored{cure}"


def _loaders(data: Path, scale: int) -> Iterator[Callable[[], Pair]]:
    """Yield a function for each pair that loads it, or raises an SrptqError."""
    lows, highs = data / f"LR_x{scale}", data / f"HR_x{scale}"
    if not lows.is_dir():
        for path in list_images(data / "HR" if (data / "HR").is_dir() else data):
            yield partial(_downscaled, path, scale)
        return
    highs = highs if highs.is_dir() else data / "HR"
    for name in sorted({path.name for folder in (lows, highs) for path in list_images(folder)}):
        yield partial(_matched, lows / name, highs / name, scale)


def _downscaled(path: Path, scale: int) -> Pair:
    pixels = read_image(path)
    height, width = (side - side % scale for side in pixels.shape[:2])
    high = Image(path.name, np.ascontiguousarray(pixels[:height, :width]))
    _check_size(path, high.pixels, scale)
    return Pair(Image(path.name, downscale(high.pixels, scale)), high)


def _matched(low_file: Path, high_file: Path, scale: int) -> Pair:
    _check_partner(high_file, "low")
    _check_partner(low_file, "high")
    low, high = read_image(low_file), read_image(high_file)
    if high.shape[:2] != tuple(scale * side for side in low.shape[:2]):
        raise SrptqError(
            f"{high_file}: {high.shape[:2]} is not {scale} x {low.shape[:2]} (height, width); "
            "crop it to that, or downscale it again"
        )
    _check_size(high_file, high, scale)
    return Pair(Image(low_file.name, low), Image(high_file.name, high))


def _check_partner(file: Path, other: str) -> None:
    if not file.is_file():
        raise SrptqError(f"{file.parent}: no {file.name}, which the {other}-resolution folder has; name both alike")


def _check_size(path: Path, high: Pixels, scale: int) -> None:
    """Refuse an image that has no room for a window of SSIM within the border that is not scored."""
    least = len(WINDOW) + 2 * scale
    if min(high.shape[:2]) < least:
        height, width = high.shape[:2]
        raise SrptqError(f"{path}: {width}x{height} pixels are too few to score; at least {least}x{least} are needed")
