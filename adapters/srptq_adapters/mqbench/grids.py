"""Conversions between MQBench's numbers for a grid and ours. The integers are the same."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from srptq_plugin.quantization.grid import Bounds, IntGrid, QParams

SYMMETRIC = (torch.per_tensor_symmetric, torch.per_channel_symmetric)
PER_CHANNEL = (torch.per_channel_symmetric, torch.per_channel_affine)
RANGE = ("min_val", "max_val")
"""The buffers in which MQBench's observers keep their bounds."""


def read_grid(part: Any) -> IntGrid:
    """Return the grid of an MQBench observer or fake-quantizer."""
    return IntGrid.between(
        part.quant_min,
        part.quant_max,
        symmetric=part.qscheme in SYMMETRIC,
        channel_axis=part.ch_axis if part.qscheme in PER_CHANNEL else None,
        power_of_two=bool(part.pot_scale),
    )


def to_scheme(grid: IntGrid) -> Mapping[str, Any]:
    """Return a grid as `w_qscheme` or `a_qscheme` of a config.

    >>> dict(to_scheme(IntGrid(4)))
    {'bit': 4, 'symmetry': False, 'per_channel': False, 'pot_scale': False}
    """
    scheme: dict[str, Any] = {
        "bit": grid.bits,
        "symmetry": grid.symmetric,
        "per_channel": grid.channel_axis is not None,
        "pot_scale": grid.power_of_two,
    }
    return scheme | {"symmetric_range": True} if grid.narrow_range else scheme


def observer_arguments(grid: IntGrid) -> Mapping[str, Any]:
    """Return a grid as the arguments of an MQBench observer."""
    per_channel = torch.per_channel_symmetric if grid.symmetric else torch.per_channel_affine
    per_tensor = torch.per_tensor_symmetric if grid.symmetric else torch.per_tensor_affine
    return {
        "dtype": torch.qint8 if grid.signed else torch.quint8,
        "qscheme": per_tensor if grid.channel_axis is None else per_channel,
        "quant_min": grid.qmin,
        "quant_max": grid.qmax,
        "ch_axis": -1 if grid.channel_axis is None else grid.channel_axis,
        "pot_scale": grid.power_of_two,
    }


def to_bounds(scale: Tensor, zero_point: Tensor, grid: IntGrid) -> Bounds:
    """Return the bounds that MQBench's scale and zero point stand for."""
    shape = () if grid.channel_axis is None else (-1,)
    # MQBench's forward passes take abs() of a learned scale and round and clamp a learned zero point, too.
    zero_point = zero_point.detach().round().clamp(grid.qmin, grid.qmax)
    return QParams(scale.detach().abs().reshape(shape), zero_point.float().reshape(shape), grid).bounds


def make_room(module: nn.Module, names: Sequence[str], state_dict: Mapping[str, Any], prefix: str) -> None:
    """Give buffers the shapes that a state has. Before calibration they have one value."""
    for name in names:
        saved = state_dict.get(prefix + name)
        if saved is not None:
            setattr(module, name, torch.empty_like(saved))
