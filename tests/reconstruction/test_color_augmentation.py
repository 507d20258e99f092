"""Patches in other colors."""

import pytest
import torch
from helpers import networks
from hypothesis import given
from hypothesis import strategies as st

from srptq_plugin.reconstruction import color_augmentation
from srptq_plugin.reconstruction.color_augmentation import CONTRAST, recolor


@given(st.integers(0, 1000), st.floats(-3.0, 0.0), st.floats(0.1, 300.0))
def test_every_second_image_changes_within_the_range(seed: int, low: float, width: float) -> None:
    images = low + width * networks.images(5, 8, 10, seed=seed)
    changed = recolor(images, low, low + width, seed)
    assert changed[::2].equal(images[::2])
    assert all(not recolored.equal(image) for recolored, image in zip(changed[1::2], images[1::2], strict=True))
    assert changed.min() >= low
    assert changed.max() <= low + width + 1e-4 * width


@given(st.integers(0, 1000))
def test_channels_are_affine_copies_of_others(seed: int) -> None:
    # A narrow range in the middle: no contrast of `CONTRAST` leaves the range, so that nothing is clamped.
    image = 0.45 + 0.1 * networks.images(2, 8, 8, seed=seed)
    changed = recolor(image, 0.0, 1.0, seed)[1]
    spreads = (changed - changed.mean((1, 2), keepdim=True)).flatten(1)
    shapes = (image[1] - image[1].mean((1, 2), keepdim=True)).flatten(1)
    cosines = torch.nn.functional.normalize(spreads) @ torch.nn.functional.normalize(shapes).T
    assert sorted(cosines.argmax(1).tolist()) == [0, 1, 2]
    assert cosines.amax(1) == pytest.approx([1, 1, 1], abs=1e-4)
    factors = spreads.norm(dim=1) / shapes.norm(dim=1)[cosines.argmax(1)]
    assert (CONTRAST[0] - 1e-4 <= factors).all()
    assert (factors <= CONTRAST[1] + 1e-4).all()
    assert factors.max() - factors.min() < 1e-4


def test_processes_recolor_what_one_would(monkeypatch: pytest.MonkeyPatch) -> None:
    images = networks.images(6, 8, 8, seed=2)
    whole = recolor(images, 0.0, 1.0)
    for rank in range(3):
        monkeypatch.setattr(color_augmentation, "own_indices", {2: range(rank, 6, 3)}.__getitem__)
        assert recolor(images[rank::3], 0.0, 1.0).equal(whole[rank::3])


def test_the_seed_decides_the_colors() -> None:
    images = networks.images(4, 8, 8, seed=2)
    assert recolor(images, 0.0, 1.0, 3).equal(recolor(images, 0.0, 1.0, 3))
    assert not recolor(images, 0.0, 1.0, 3).equal(recolor(images, 0.0, 1.0, 4))
