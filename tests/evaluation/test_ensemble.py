"""The self-ensemble against an explicit loop, and its symmetries."""

import numpy as np
import pytest
import torch
from helpers.twofold import Array, network, noise

from srptq_plugin.evaluation.ensemble import ensembled


def test_ensemble_is_the_mean_of_all_eight() -> None:
    forward, image = network(), noise(9, 12)
    total = torch.zeros(1, 3, 18, 24)
    for turns in range(4):
        for dims in ([], [2]):
            seen = torch.rot90(torch.from_numpy(image).flip(dims), turns, (2, 3))
            total += torch.from_numpy(forward(seen.contiguous().numpy())).rot90(4 - turns, (2, 3)).flip(dims)
    np.testing.assert_allclose(ensembled(forward)(image), total.numpy() / 8, atol=1e-6)


def test_symmetric_network_is_unchanged() -> None:
    def nearest(image: Array) -> Array:
        return image.repeat(2, 2).repeat(2, 3)

    image = noise(5, 8)
    mean = ensembled(nearest)(image)
    assert mean.dtype == np.float32
    np.testing.assert_allclose(mean, nearest(image), atol=1e-6)


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_rotated_image_gives_the_output_rotated(turns: int) -> None:
    forward, image = network(), noise(9, 12)
    turned = np.ascontiguousarray(np.rot90(image, turns, (2, 3)))
    assert np.abs(forward(turned) - np.rot90(forward(image), turns, (2, 3))).max() > 1e-3
    ensemble = ensembled(forward)
    np.testing.assert_allclose(ensemble(turned), np.rot90(ensemble(image), turns, (2, 3)), atol=1e-6)
