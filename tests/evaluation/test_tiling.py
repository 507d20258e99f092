"""Tiles cover an image once, see far enough, and make what the whole image makes."""

import numpy as np
import pytest
from helpers.twofold import RADIUS, Array, network, noise
from hypothesis import given
from hypothesis import strategies as st

from srptq_plugin.errors import SrptqError
from srptq_plugin.evaluation.tiling import Tiling, spans, tiled, tiling_of


@given(st.integers(1, 200), st.integers(1, 60), st.data())
def test_tiles_along_a_side_give_each_pixel_once_and_see_enough(length: int, tile: int, data: st.DataObject) -> None:
    overlap = data.draw(st.integers(0, (tile - 1) // 2))
    found = spans(length, tile, overlap)
    assert [pixel for span in found for pixel in range(span.first, span.last)] == list(range(length))
    assert all(span.stop - span.start == min(tile, length) for span in found)
    assert all(0 <= span.start <= max(0, span.first - overlap) for span in found)
    assert all(min(length, span.last + overlap) <= span.stop <= length for span in found)


@pytest.mark.parametrize(("height", "width"), [(20, 20), (31, 9), (9, 31), (40, 37), (12, 13)])
def test_tiles_that_see_as_far_as_the_network_make_what_the_whole_image_makes(height: int, width: int) -> None:
    forward, image = network(), noise(height, width)
    found = tiled(forward, Tiling(12, 14, RADIUS), 2)(image)
    np.testing.assert_allclose(found, forward(image), atol=1e-5)


def test_tiles_that_see_less_leave_a_seam() -> None:
    forward, image = network(), noise(30, 30)
    found = tiled(forward, Tiling(12, 12, RADIUS - 1), 2)(image)
    assert np.abs(found - forward(image)).max() > 1e-4


@pytest.mark.parametrize(("height", "width"), [(8, 10), (8, 40), (40, 10), (16, 16), (33, 41)])
def test_a_network_of_one_size_gets_no_other(height: int, width: int) -> None:
    sizes: set[tuple[int, ...]] = set()

    def forward(image: Array) -> Array:
        sizes.add(image.shape)
        return image.repeat(3, 2).repeat(3, 3)

    image = noise(height, width)
    found = tiled(forward, Tiling(16, 16, 3, fixed=True), 3)(image)
    assert sizes == {(1, 3, 16, 16)}
    np.testing.assert_array_equal(found, image.repeat(3, 2).repeat(3, 3))


def test_a_small_image_is_padded_by_its_last_rows_and_columns() -> None:
    forward, image = network(), noise(7, 9)
    padded = np.stack([[np.pad(channel, ((0, 3), (0, 5)), mode="edge") for channel in image[0]]])
    found = tiled(forward, Tiling(10, 14, 2, fixed=True), 2)(image)
    np.testing.assert_allclose(found, forward(padded)[:, :, :14, :18], atol=1e-6)


def test_what_needs_tiles_and_what_needs_padding() -> None:
    free, fixed = Tiling(10, 20, 2), Tiling(10, 20, 2, fixed=True)
    assert [free.splits(*size) for size in ((10, 20), (11, 5), (5, 21))] == [False, True, True]
    assert [fixed.pads(*size) for size in ((10, 20), (11, 5), (9, 30))] == [False, True, True]
    assert not free.pads(3, 3)


def test_which_tiles_are_taken() -> None:
    assert tiling_of(None, None, None) is None
    assert tiling_of(None, 128, None) == Tiling(128, 128, 16)
    assert tiling_of(None, 128, 0) == Tiling(128, 128, 0)
    assert tiling_of((24, 40), None, None) == Tiling(24, 40, 6, fixed=True)
    assert tiling_of((24, 24), 24, 9) == Tiling(24, 24, 9, fixed=True)


@pytest.mark.parametrize(
    ("size", "tile", "overlap", "part"),
    [
        (None, None, 8, "--overlap 8: images run whole; give --tile"),
        (None, 0, None, "--tile 0: give the side"),
        (None, 20, 10, "20 x 20 with an overlap of 10: nothing is left"),
        (None, 20, -1, "an overlap of -1"),
        ((24, 40), 24, None, "--tile 24: the file takes images of 24 x 40 only; leave it out"),
    ],
)
def test_tiles_that_cannot_be(size: tuple[int, int] | None, tile: int | None, overlap: int | None, part: str) -> None:
    with pytest.raises(SrptqError, match=part):
        tiling_of(size, tile, overlap)
