"""The seam of tiles is measured, and the overlap named as the cure hides it."""

import numpy as np
import pytest
from helpers.twofold import RADIUS, Array, network, noise

from srptq_plugin.data.metrics import level_differences
from srptq_plugin.evaluation.seams import UNSEEN, Seam, compare
from srptq_plugin.evaluation.tiling import Tiling, tiled

LEVEL = 1 / 255


class Ringed:
    """A twofold network whose output is off by some levels within `depth` pixels of its input's border."""

    def __init__(self, depth: int, levels: float) -> None:
        self.depth, self.levels = depth, levels

    def __call__(self, image: Array) -> Array:
        output = image + np.float32(self.levels * LEVEL)
        inside = slice(self.depth, -self.depth)
        output[..., inside, inside] = image[..., inside, inside]
        return output.repeat(2, 2).repeat(2, 3)


@pytest.mark.parametrize(("height", "width"), [(40, 46), (18, 46), (46, 15)])
def test_enough_overlap_is_the_depth_of_the_difference(height: int, width: int) -> None:
    largest, enough = compare(Ringed(5, 3), Tiling(20, 20, 2), noise(height, width), 2, peak=1.0)
    assert largest == pytest.approx(3, abs=1e-3)
    assert enough == 5


def test_edge_of_the_image_is_no_cut() -> None:
    """Differ from the image in the top row only, five pixels deep."""

    def forward(image: Array) -> Array:
        output = image.copy()
        output[..., 0, :5] += 3 * LEVEL
        output[..., 0, -5:] += 3 * LEVEL
        return output

    assert compare(forward, Tiling(20, 20, 2), noise(18, 46), 1, peak=1.0)[1] == 5


def test_invisible_difference_needs_no_overlap() -> None:
    enough = [compare(Ringed(5, levels), Tiling(20, 20, 2), noise(40, 46), 2, peak=1.0)[1] for levels in (0.45, 0.55)]
    assert enough == [0, 5]


def test_overlap_as_deep_as_the_difference_hides_it() -> None:
    assert compare(Ringed(5, 3), Tiling(20, 20, 5), noise(40, 46), 2, peak=1.0) == (0, 5)


def test_difference_of_half_a_tile_has_no_cure() -> None:
    assert compare(Ringed(10, 3), Tiling(20, 20, 2), noise(50, 46), 2, peak=1.0)[1] is None


def test_seam_is_measured_and_its_cure_helps() -> None:
    forward, image, tiling = network(), noise(50, 41), Tiling(18, 20, 0)
    largest, enough = compare(forward, tiling, image, 2, peak=1.0)
    assert largest == pytest.approx(level_differences(tiled(forward, tiling, 2)(image), forward(image), 1.0)[0])
    assert largest > UNSEEN
    assert enough is not None
    assert 0 < enough <= RADIUS
    assert compare(forward, Tiling(18, 20, enough), image, 2, peak=1.0)[0] <= UNSEEN


def test_global_pooling_has_no_cure() -> None:
    image = noise(50, 41) * np.linspace(0, 1, 41, dtype=np.float32)
    for overlap in (0, 8):
        largest, enough = compare(network(pooled=True), Tiling(18, 20, overlap), image, 2, peak=1.0)
        assert largest > 10
        assert enough is None


def test_cure_names_the_arguments() -> None:
    free, fixed = Tiling(20, 20, 2), Tiling(20, 20, 2, fixed=True)
    assert Seam("a.png", 3, 7).cure(free) == "with `overlap=7` they would differ by 0.5 at most there"
    assert "a larger `tile` and `overlap`, or run images whole" in Seam("a.png", 3, None).cure(free)
    assert "a larger `input_size`" in Seam("a.png", 3, None).cure(fixed)
    assert [Seam("a.png", levels, None).visible for levels in (0.5, 0.51)] == [False, True]
