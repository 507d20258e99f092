"""What tiles cost: their outputs against the whole image's, by how far a pixel is from where the tile was cut."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from srptq_plugin.evaluation.tiling import Span, Tiling
from srptq_plugin.graph.types import Array
from srptq_plugin.runs.run import Forward

LEVELS = 255.0
UNSEEN = 0.5
"""Levels of an 8-bit image that rounding hides."""


@dataclass(frozen=True)
class Seam:
    """How far the output in tiles is from the whole image's, in levels of 8 bits.

    `enough` is the least overlap, of tiles as large, that would have hidden it; none where no overlap does.
    """

    image: str
    levels: float
    enough: int | None

    @property
    def visible(self) -> bool:
        """Whether rounding to 8 bits cannot hide it."""
        return self.levels > UNSEEN

    def cure(self, tiling: Tiling) -> str:
        """What would make it invisible."""
        if self.enough is not None:
            return f"with --overlap {self.enough} they would differ by {UNSEEN} at most there"
        larger = "quantize with a larger --input-size" if tiling.fixed else "give a larger --tile and --overlap"
        return (
            f"no --overlap in tiles of this size would do: {larger}, or run images whole "
            "where the network looks at all of an image at once, as attention with global pooling does"
        )


def compare(forward: Forward, tiling: Tiling, image: Array, scale: int, peak: float) -> tuple[float, int | None]:
    """The largest difference, and the overlap that is enough; `peak` is white less black.

    >>> blind = lambda image: image
    >>> compare(blind, Tiling(4, 4, 1), np.zeros((1, 3, 5, 9), np.float32), scale=1, peak=1.0)
    (0.0, 0)
    """
    whole = forward(image)
    largest, profile = 0.0, np.zeros(max(image.shape[2:]))
    for rows, columns, tile in tiling.outputs(forward, image):
        beside = whole[..., rows.read(scale), columns.read(scale)]
        levels = np.abs(tile.astype(np.float64) - beside).max(axis=(0, 1)) * (LEVELS / peak)
        largest = max(largest, float(levels[rows.inner(scale), columns.inner(scale)].max()))
        _note(profile, levels, _distances(rows, columns, image, scale))
    return largest, _enough(profile, min(tiling.height, tiling.width))


def _note(profile: NDArray[np.float64], levels: NDArray[np.float64], distances: NDArray[np.intp]) -> None:
    cut = distances < len(profile)
    np.maximum.at(profile, distances[cut], levels[cut])


def _distances(rows: Span, columns: Span, image: Array, scale: int) -> NDArray[np.intp]:
    """How many low-resolution pixels lie between an output pixel and the nearest cut."""
    height, width = image.shape[2:]
    vertical, horizontal = _along(rows, height).repeat(scale), _along(columns, width).repeat(scale)
    return np.minimum(vertical[:, None], horizontal[None, :])


def _along(span: Span, length: int) -> NDArray[np.intp]:
    """The ends of the image are no cuts: the whole image has them too."""
    never = np.iinfo(np.intp).max
    steps = np.arange(span.stop - span.start)
    before = steps if span.start else np.full_like(steps, never)
    behind = steps[::-1] if span.stop < length else np.full_like(steps, never)
    return np.minimum(before, behind)


def _enough(profile: NDArray[np.float64], tile: int) -> int | None:
    """The distance beyond which nothing is visible, where tiles have room for it on both sides."""
    visible = np.flatnonzero(profile > UNSEEN)
    least = int(visible[-1]) + 1 if len(visible) else 0
    return least if 2 * least < tile else None
