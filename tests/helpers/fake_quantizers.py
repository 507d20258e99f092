"""Grids, and quantizers on them whose bounds learn."""

from typing import Any

import torch
from torch import Tensor

from srptq_plugin.observers.minmax import MinMaxObserver
from srptq_plugin.quantization.grid import Bounds, IntGrid
from srptq_plugin.quantization.quantizer import BoundedFakeQuantize, Mode

CHANNELS = 3
WEIGHT = IntGrid(4, signed=True, symmetric=True, narrow_range=True, channel_axis=0)
ACTIVATION = IntGrid(4)
GRIDS = [
    ACTIVATION,
    WEIGHT,
    IntGrid(4, channel_axis=1),
    IntGrid(8, signed=True),
    IntGrid(8, signed=True, symmetric=True, power_of_two=True),
    IntGrid(8, symmetric=True),
    IntGrid(16, signed=True, channel_axis=0),
    IntGrid(4, float_zero_point=True),
    IntGrid(8, channel_axis=0, float_zero_point=True),
]


def ends_of(grid: IntGrid, lower: float, upper: float) -> Bounds:
    """Return bounds that differ by channel if the grid has a channel axis."""
    factors = torch.tensor(1.0) if grid.channel_axis is None else torch.tensor([1.0, 0.25, 3.0])
    return Bounds.of(lower * factors, upper * factors)


def quantizing(grid: IntGrid, bounds: Bounds, **options: Any) -> BoundedFakeQuantize:
    """Return a quantizer whose bounds learn."""
    quantizer = BoundedFakeQuantize("a/site", grid, MinMaxObserver(grid), bounds, **options)
    quantizer.set_mode(Mode.QUANTIZE)
    return quantizer


def sample(seed: int = 0) -> Tensor:
    return torch.randn(CHANNELS, CHANNELS, 7, generator=torch.Generator().manual_seed(seed))
