"""Running a network on tiles of an image.

Tiles overlap, and each contributes only its inner part to the output. There is no seam if the overlap is at least the
network's receptive field.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np

from srptq_plugin.errors import ArgumentError, SrptqError
from srptq_plugin.graph.types import Array
from srptq_plugin.runs.run import Forward

OVERLAP = 16
"""The default overlap. A quarter of the tile is used if that is less."""


@dataclass(frozen=True)
class Span:
    """A tile along one side of an image. It reads from `start` to `stop`, and contributes `first` to `last`."""

    start: int
    stop: int
    first: int
    last: int

    def read(self, scale: int = 1) -> slice:
        """Return the pixels that the tile reads in the image or, with a scale, their place in the whole output."""
        return slice(scale * self.start, scale * self.stop)

    def contributed(self, scale: int) -> slice:
        """Return the contributed pixels, in the whole output."""
        return slice(scale * self.first, scale * self.last)

    def inner(self, scale: int) -> slice:
        """Return the contributed pixels, in the tile's own output."""
        return slice(scale * (self.first - self.start), scale * (self.last - self.start))


def spans(length: int, tile: int, overlap: int) -> list[Span]:
    """Cut a side into tiles. Each reads `overlap` pixels more than it contributes, except at the ends of the side.

    >>> [(span.start, span.first, span.last) for span in spans(20, tile=10, overlap=2)]
    [(0, 0, 8), (6, 8, 14), (10, 14, 20)]
    """
    if length <= tile:
        return [Span(0, length, 0, length)]
    # all tiles have full size, so the last one starts early and overlaps more
    starts = [*range(0, length - tile, tile - 2 * overlap), length - tile]
    ends = [*(start + tile - overlap for start in starts[:-1]), length]
    firsts = [0, *ends[:-1]]
    return [Span(start, start + tile, first, last) for start, first, last in zip(starts, firsts, ends, strict=True)]


@dataclass(frozen=True)
class Tiling:
    """The size of tiles in low-resolution pixels, and how many pixels each reads beyond the part it contributes.

    A `fixed` tiling is for a network that takes one size only: smaller images are padded to it.
    """

    height: int
    width: int
    overlap: int
    fixed: bool = False

    def __post_init__(self) -> None:
        if not 0 <= 2 * self.overlap < min(self.height, self.width):
            raise SrptqError(
                f"tiles of {self.height} x {self.width} with an overlap of {self.overlap}: nothing is left between "
                "the overlaps; give an overlap of 0 or more, and less than half of the tile"
            )

    def outputs(self, forward: Forward, image: Array) -> Iterator[tuple[Span, Span, Array]]:
        """Yield the rows and columns of each tile, with the network's output for it."""
        height, width = image.shape[2:]
        down, across = spans(height, self.height, self.overlap), spans(width, self.width, self.overlap)
        for rows, columns in product(down, across):
            yield rows, columns, forward(np.ascontiguousarray(image[..., rows.read(), columns.read()]))

    def splits(self, height: int, width: int) -> bool:
        """Return whether an image of this size needs more than one tile."""
        return height > self.height or width > self.width

    def pads(self, height: int, width: int) -> bool:
        """Return whether an image of this size is smaller than the network takes."""
        return self.fixed and (height < self.height or width < self.width)

    def padded(self, image: Array) -> Array:
        """Pad an image to the size that the network takes, by repeating its last row and column."""
        if not self.pads(*image.shape[2:]):
            return image
        short = [max(0, least - side) for least, side in zip((self.height, self.width), image.shape[2:], strict=True)]
        return np.pad(image, [(0, 0), (0, 0), *((0, more) for more in short)], mode="edge")


def choose_tiling(size: tuple[int, int] | None, tile: int | None, overlap: int | None) -> Tiling | None:
    """Return the tiling for a network that takes only this `size`, or any. Return None to run images whole.

    >>> choose_tiling(None, tile=48, overlap=None)
    Tiling(height=48, width=48, overlap=12, fixed=False)
    """
    if size is None and tile is None:
        if overlap is not None:
            raise ArgumentError("overlap", "images run whole; give `tile` as well, or leave it out", overlap)
        return None
    if tile is not None and tile < 1:
        raise ArgumentError("tile", "give the side of a tile in low-resolution pixels, such as 128", tile)
    height, width = size or (tile or 0, tile or 0)
    if tile is not None and (tile, tile) != (height, width):
        raise ArgumentError(
            "tile", f"the file takes images of {height} x {width} only; leave it out, tiles are of that size", tile
        )
    usual = min(OVERLAP, height // 4, width // 4)
    return Tiling(height, width, usual if overlap is None else overlap, fixed=size is not None)


def tiled(forward: Forward, tiling: Tiling, scale: int) -> Forward:
    """Wrap a network so that it runs tile by tile.

    >>> double = tiled(lambda image: image.repeat(2, 2).repeat(2, 3), Tiling(4, 4, 1), scale=2)
    >>> double(np.zeros((1, 3, 5, 9), np.float32)).shape
    (1, 3, 10, 18)
    """

    def in_tiles(image: Array) -> Array:
        padded = tiling.padded(image)
        output = np.empty((*image.shape[:2], *(scale * side for side in padded.shape[2:])), np.float32)
        for rows, columns, tile in tiling.outputs(forward, padded):
            inner = tile[..., rows.inner(scale), columns.inner(scale)]
            output[..., rows.contributed(scale), columns.contributed(scale)] = inner
        height, width = (scale * side for side in image.shape[2:])
        return output[..., :height, :width]

    return in_tiles
