"""Random weights with given keys, and the layers that compute papers' equations on them."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

State = dict[str, Tensor]


def drawn(shapes: Mapping[str, Tensor], seed: int = 1) -> State:
    """Draw random weights with the keys and shapes of others."""
    generator = torch.Generator().manual_seed(seed)
    return {
        key: torch.randn(value.shape, generator=generator) / max(value[0].numel(), 1) ** 0.5
        for key, value in shapes.items()
    }


def image(colors: int = 3, white: float = 1.0) -> Tensor:
    """Draw two images of 26 x 31 pixels."""
    return torch.rand(2, colors, 26, 31, generator=torch.Generator().manual_seed(0)) * white


def conv(state: Mapping[str, Tensor], name: str, x: Tensor, stride: int = 1) -> Tensor:
    """Convolve by the layer of this name, of any groups, padded unless it is strided."""
    weight = state[f"{name}.weight"]
    padding, groups = 0 if stride > 1 else weight.shape[-1] // 2, x.shape[1] // weight.shape[1]
    return functional.conv2d(x, weight, state.get(f"{name}.bias"), stride, padding, groups=groups)


def save(folder: Path, state: Mapping[str, Tensor]) -> Path:
    """Save weights in a folder and return the file's path."""
    save_file(
        {key: value.clone(memory_format=torch.contiguous_format) for key, value in state.items()},
        folder / "a.safetensors",
    )
    return folder / "a.safetensors"
