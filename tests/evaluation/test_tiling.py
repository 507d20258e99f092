"""Tiles cover an image once, read far enough, and give the output of the whole image."""

import numpy as np
import pytest
from helpers.twofold import RADIUS, Array, network, noise
from hypothesis import given
from hypothesis import strategies as st

from srptq_plugin.errors import SrptqError
from srptq_plugin.evaluation.tiling import Tiling, choose_tiling, spans, tiled


@given(st.integers(1, 200), st.integers(1, 60), st.data())
def test_spans_cover_a_side_once_and_overlap(length: int, tile: int, data: st.DataObject) -> None:
    overlap = data.draw(st.integers(0, (tile - 1) // 2))
    cuts = spans(length, tile, overlap)
    assert [pixel for span in cuts for pixel in range(span.first, span.last)] == list(range(length))
    assert all(span.stop - span.start == min(tile, length) for span in cuts)
    assert all(0 <= span.start <= max(0, span.first - overlap) for span in cuts)
    assert all(min(length, span.last + overlap) <= span.stop <= length for span in cuts)


@pytest.mark.parametrize(("height", "width"), [(20, 20), (31, 9), (9, 31), (40, 37), (12, 13)])
def test_wide_overlap_gives_the_whole_output(height: int, width: int) -> None:
    forward, image = network(), noise(height, width)
    output = tiled(forward, Tiling(12, 14, RADIUS), 2)(image)
    np.testing.assert_allclose(output, forward(image), atol=1e-5)


def test_narrow_overlap_leaves_a_seam() -> None:
    forward, image = network(), noise(30, 30)
    output = tiled(forward, Tiling(12, 12, RADIUS - 1), 2)(image)
    assert np.abs(output - forward(image)).max() > 1e-4


@pytest.mark.parametrize(("height", "width"), [(8, 10), (8, 40), (40, 10), (16, 16), (33, 41)])
def test_network_of_one_size_gets_no_other(height: int, width: int) -> None:
    sizes: set[tuple[int, ...]] = set()

    def forward(image: Array) -> Array:
        sizes.add(image.shape)
        return image.repeat(3, 2).repeat(3, 3)

    image = noise(height, width)
    output = tiled(forward, Tiling(16, 16, 3, fixed=True), 3)(image)
    assert sizes == {(1, 3, 16, 16)}
    np.testing.assert_array_equal(output, image.repeat(3, 2).repeat(3, 3))


def test_small_image_is_padded_by_its_edges() -> None:
    forward, image = network(), noise(7, 9)
    padded = np.stack([[np.pad(channel, ((0, 3), (0, 5)), mode="edge") for channel in image[0]]])
    output = tiled(forward, Tiling(10, 14, 2, fixed=True), 2)(image)
    np.testing.assert_allclose(output, forward(padded)[:, :, :14, :18], atol=1e-6)


def test_splits_and_pads_by_size() -> None:
    free, fixed = Tiling(10, 20, 2), Tiling(10, 20, 2, fixed=True)
    assert [free.splits(*size) for size in ((10, 20), (11, 5), (5, 21))] == [False, True, True]
    assert [fixed.pads(*size) for size in ((10, 20), (11, 5), (9, 30))] == [False, True, True]
    assert not free.pads(3, 3)


def test_choose_tiling_from_size_and_arguments() -> None:
    assert choose_tiling(None, None, None) is None
    assert choose_tiling(None, 128, None) == Tiling(128, 128, 16)
    assert choose_tiling(None, 128, 0) == Tiling(128, 128, 0)
    assert choose_tiling((24, 40), None, None) == Tiling(24, 40, 6, fixed=True)
    assert choose_tiling((24, 24), 24, 9) == Tiling(24, 24, 9, fixed=True)


@pytest.mark.parametrize(
    ("size", "tile", "overlap", "part"),
    [
        (None, None, 8, "overlap 8: images run whole; give `tile`"),
        (None, 0, None, "tile 0: give the side"),
        (None, 20, 10, "20 x 20 with an overlap of 10: nothing is left"),
        (None, 20, -1, "an overlap of -1"),
        ((24, 40), 24, None, "tile 24: the file takes images of 24 x 40 only; leave it out"),
    ],
)
def test_impossible_tiles_are_refused(
    size: tuple[int, int] | None, tile: int | None, overlap: int | None, part: str
) -> None:
    with pytest.raises(SrptqError, match=part):
        choose_tiling(size, tile, overlap)
