"""A small network on arrays that enlarges twofold, and sees as far as is known."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

Array = NDArray[np.float32]
RADIUS = 4


def network(*, pooled: bool = False) -> Callable[[Array], Array]:
    """Twofold: three convolutions at low resolution and one at high, so it sees `RADIUS` pixels; or all of them."""
    torch.manual_seed(3)
    layers = [nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 12, 3, padding=1)]
    module = nn.Sequential(*layers, nn.PixelShuffle(2), nn.Conv2d(3, 3, 3, padding=1))

    def forward(image: Array) -> Array:
        with torch.no_grad():
            given = torch.from_numpy(image)
            return (module(given) + (given.mean((2, 3), keepdim=True) if pooled else 0)).numpy()

    return forward


def noise(height: int, width: int) -> Array:
    """An image of its own for each size."""
    return np.random.default_rng(height * width).random((1, 3, height, width), dtype=np.float32)
