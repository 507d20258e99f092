"""The seams that tiling leaves, measured against the whole image by the distance from a tile's cut edges."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from srptq_plugin.evaluation.tiling import Span, Tiling
from srptq_plugin.graph.types import Array
from srptq_plugin.runs.run import Forward

LEVELS = 255.0
UNSEEN = 0.5
"""The largest difference, in levels of an 8-bit image, that rounding hides."""


@dataclass(frozen=True)
class Seam:
    """The largest difference between the output in tiles and of the whole image, in levels of an 8-bit image.

    `enough` is the least overlap, for tiles of this size, that would have hidden it. It is None if no overlap does.
    """

    image: str
    levels: float
    enough: int | None

    @property
    def visible(self) -> bool:
        """Whether the seam remains after rounding to 8 bits."""
        return self.levels > UNSEEN

    def cure(self, tiling: Tiling) -> str:
        """Say what would make the seam invisible."""
        if self.enough is not None:
            return f"with `overlap={self.enough}` they would differ by {UNSEEN} at most there"
        larger = "quantize with a larger `input_size`" if tiling.fixed else "give a larger `tile` and `overlap`"
        return (
            f"no overlap in tiles of this size would do: {larger}, or run images whole "
            "if the network looks at all of an image at once, as attention with global pooling does"
        )


def compare(forward: Forward, tiling: Tiling, image: Array, scale: int, peak: float) -> tuple[float, int | None]:
    """Compare tiles with the whole image. Return the largest difference and the overlap that would be enough.

    Args:
        peak: White minus black, in the network's input range.

    >>> blind = lambda image: image
    >>> compare(blind, Tiling(4, 4, 1), np.zeros((1, 3, 5, 9), np.float32), scale=1, peak=1.0)
    (0.0, 0)
    """
    whole = forward(image)
    # profile[d]: the largest difference of all pixels that lie d low-resolution pixels from the nearest cut
    largest, profile = 0.0, np.zeros(max(image.shape[2:]))
    for rows, columns, tile in tiling.outputs(forward, image):
        reference = whole[..., rows.read(scale), columns.read(scale)]
        levels = np.abs(tile.astype(np.float64) - reference).max(axis=(0, 1)) * (LEVELS / peak)
        largest = max(largest, float(levels[rows.inner(scale), columns.inner(scale)].max()))
        _note(profile, levels, _distances(rows, columns, image, scale))
    return largest, _enough(profile, min(tiling.height, tiling.width))


def _note(profile: NDArray[np.float64], levels: NDArray[np.float64], distances: NDArray[np.intp]) -> None:
    cut = distances < len(profile)  # pixels of a tile without cut edges are infinitely far from one
    np.maximum.at(profile, distances[cut], levels[cut])


def _distances(rows: Span, columns: Span, image: Array, scale: int) -> NDArray[np.intp]:
    """Return how many low-resolution pixels lie between each output pixel of a tile and the nearest cut."""
    height, width = image.shape[2:]
    vertical, horizontal = _along(rows, height).repeat(scale), _along(columns, width).repeat(scale)
    return np.minimum(vertical[:, None], horizontal[None, :])


def _along(span: Span, length: int) -> NDArray[np.intp]:
    """Return the distances along one side of a tile. The ends of the image are no cuts, as the whole image has them."""
    never = np.iinfo(np.intp).max
    steps = np.arange(span.stop - span.start)
    before = steps if span.start else np.full_like(steps, never)
    behind = steps[::-1] if span.stop < length else np.full_like(steps, never)
    return np.minimum(before, behind)


def _enough(profile: NDArray[np.float64], tile: int) -> int | None:
    """Return the distance beyond which no difference is visible, if a tile has room for it on both sides."""
    visible = np.flatnonzero(profile > UNSEEN)
    least = int(visible[-1]) + 1 if len(visible) else 0
    return least if 2 * least < tile else None
