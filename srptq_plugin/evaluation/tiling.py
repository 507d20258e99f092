"""Images in tiles: a tile gives only its inner part, so no seam shows where it sees as far as the network looks."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np

from srptq_plugin.errors import SrptqError
from srptq_plugin.graph.types import Array
from srptq_plugin.runs.run import Forward

OVERLAP = 16
"""Where none is given; a quarter of the tile where that is less."""


@dataclass(frozen=True)
class Span:
    """A tile along one side of an image: it reads from `start` to `stop`, and gives from `first` to `last`."""

    start: int
    stop: int
    first: int
    last: int

    def read(self, scale: int = 1) -> slice:
        """What it reads, in the image; with a scale, where its output lies."""
        return slice(scale * self.start, scale * self.stop)

    def given(self, scale: int) -> slice:
        """What it gives, in the output."""
        return slice(scale * self.first, scale * self.last)

    def inner(self, scale: int) -> slice:
        """What it gives, in its own output."""
        return slice(scale * (self.first - self.start), scale * (self.last - self.start))


def spans(length: int, tile: int, overlap: int) -> list[Span]:
    """Tiles along a side; each but those at its ends sees `overlap` pixels more than it gives, both ways.

    >>> [(span.start, span.first, span.last) for span in spans(20, tile=10, overlap=2)]
    [(0, 0, 8), (6, 8, 14), (10, 14, 20)]
    """
    if length <= tile:
        return [Span(0, length, 0, length)]
    starts = [*range(0, length - tile, tile - 2 * overlap), length - tile]
    ends = [*(start + tile - overlap for start in starts[:-1]), length]
    return [Span(at, at + tile, *given) for at, given in zip(starts, zip([0, *ends], ends, strict=False), strict=True)]


@dataclass(frozen=True)
class Tiling:
    """The size of tiles in low-resolution pixels, and how far each sees beyond the part that it gives.

    A network that takes one size only is `fixed` to it: smaller images are padded.
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
        """The rows and columns of each tile, and what the network makes of it."""
        height, width = image.shape[2:]
        down, across = spans(height, self.height, self.overlap), spans(width, self.width, self.overlap)
        for rows, columns in product(down, across):
            yield rows, columns, forward(np.ascontiguousarray(image[..., rows.read(), columns.read()]))

    def splits(self, height: int, width: int) -> bool:
        """Whether an image needs more than one tile."""
        return height > self.height or width > self.width

    def pads(self, height: int, width: int) -> bool:
        """Whether an image is smaller than what the network takes."""
        return self.fixed and (height < self.height or width < self.width)

    def padded(self, image: Array) -> Array:
        """The image at least as large as the network needs it, its last rows and columns repeated."""
        if not self.pads(*image.shape[2:]):
            return image
        short = [max(0, least - side) for least, side in zip((self.height, self.width), image.shape[2:], strict=True)]
        return np.pad(image, [(0, 0), (0, 0), *((0, more) for more in short)], mode="edge")


def tiling_of(size: tuple[int, int] | None, tile: int | None, overlap: int | None) -> Tiling | None:
    """How to tile for a network that takes one `size` only, or any; none where nobody asks for it.

    >>> tiling_of(None, tile=48, overlap=None)
    Tiling(height=48, width=48, overlap=12, fixed=False)
    """
    if size is None and tile is None:
        if overlap is not None:
            raise SrptqError(f"--overlap {overlap}: images run whole; give --tile as well, or leave it out")
        return None
    if tile is not None and tile < 1:
        raise SrptqError(f"--tile {tile}: give the side of a tile in low-resolution pixels, such as 128")
    height, width = size or (tile or 0, tile or 0)
    if tile is not None and (tile, tile) != (height, width):
        raise SrptqError(
            f"--tile {tile}: the file takes images of {height} x {width} only; leave it out, tiles are of that size"
        )
    usual = min(OVERLAP, height // 4, width // 4)
    return Tiling(height, width, usual if overlap is None else overlap, fixed=size is not None)


def tiled(forward: Forward, tiling: Tiling, scale: int) -> Forward:
    """The network run tile by tile.

    >>> double = tiled(lambda image: image.repeat(2, 2).repeat(2, 3), Tiling(4, 4, 1), scale=2)
    >>> double(np.zeros((1, 3, 5, 9), np.float32)).shape
    (1, 3, 10, 18)
    """

    def in_tiles(image: Array) -> Array:
        padded = tiling.padded(image)
        output = np.empty((*image.shape[:2], *(scale * side for side in padded.shape[2:])), np.float32)
        for rows, columns, tile in tiling.outputs(forward, padded):
            output[..., rows.given(scale), columns.given(scale)] = tile[..., rows.inner(scale), columns.inner(scale)]
        height, width = (scale * side for side in image.shape[2:])
        return output[..., :height, :width]

    return in_tiles
