"""The patches of a training step."""

import numpy as np
import pytest
import torch
from helpers import networks
from helpers.photographs import pixels
from hypothesis import given
from hypothesis import strategies as st

from srptq_plugin.data.images import Image
from srptq_plugin.errors import SrptqError
from srptq_plugin.qat.batches import Patches

LOWS = [Image(str(n), pixels(20 + n, 26, n)) for n in range(3)]
HIGHS = [Image(low.name, low.pixels.repeat(2, 0).repeat(2, 1)) for low in LOWS]


def patches(seed: int = 0, highs: list[Image] | None = HIGHS) -> Patches:
    return Patches(LOWS, highs, scale=2, patch=12, batch=4, input_range=networks.UNIT, seed=seed)


@given(st.integers(0, 10_000), st.integers(0, 2**32 - 1))
def test_low_and_high_show_the_same_crop(step: int, seed: int) -> None:
    low, high = patches(seed)(step)
    assert high is not None
    assert (low.shape, high.shape) == ((4, 3, 12, 12), (4, 3, 24, 24))
    for row in (0, 1):
        for column in (0, 1):
            assert torch.equal(high[..., row::2, column::2], low)


def test_patches_depend_on_step_and_seed_only() -> None:
    first, again, other, seeded = patches()(3)[0], patches()(3)[0], patches()(4)[0], patches(seed=1)(3)[0]
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first, seeded)


def test_all_images_and_orientations_are_drawn() -> None:
    flat = [Image(str(n), np.full((12, 12, 3), 40 * n, np.uint8)) for n in range(3)]
    marked = np.zeros((12, 12, 3), np.uint8)
    marked[0, 1] = 255
    drawn = Patches([*flat, Image("marked", marked)], None, 2, 12, 8, networks.UNIT)
    seen = [patch for step in range(40) for patch in drawn(step)[0]]
    assert {round(float(patch[0, 5, 5]) * 255) for patch in seen} == {0, 40, 80}
    corners = {int(patch[0].argmax()) for patch in seen if patch.max() == 1}
    assert corners == {1, 10, 12, 23, 120, 131, 133, 142}


def test_images_that_are_too_small_are_named() -> None:
    with pytest.raises(SrptqError, match=r"1: 26x21 pixels .*24x24.* at most 21"):
        Patches(LOWS[1:], None, 2, 24, 1, networks.UNIT)
