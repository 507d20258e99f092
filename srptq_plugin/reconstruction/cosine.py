"""The angle between maps, with a gradient that keeps no more than the maps."""

from typing import Any

import torch
from torch import Tensor


def cosines(maps: Tensor, targets: Tensor) -> Tensor:
    """Of each sample's map [n, ...] and its target [n, values], whose root mean square is 1.

    >>> cosines(torch.tensor([[3.0, 3.0], [0.0, 2.0]]), torch.tensor([[1.0, 1.0], [1.0, -1.0]]))
    tensor([ 1.0000, -0.7071])
    """
    return _Cosines.apply(maps.flatten(1), targets)  # pyright: ignore[reportReturnType]


class _Cosines(torch.autograd.Function):
    """x.t / (|x| |t|), whose gradient is t / (|x| |t|) - cosine x / |x|^2."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor, targets: Tensor) -> Tensor:
        size = maps.shape[1] ** 0.5
        lengths = maps.norm(dim=1).clamp(min=1e-30)
        found = torch.linalg.vecdot(maps, targets.to(maps)) / (lengths * size)
        ctx.save_for_backward(maps, targets, lengths, found)
        return found

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        maps, targets, lengths, found = ctx.saved_tensors
        share = (gradients[0] / lengths)[:, None]
        along = share / maps.shape[1] ** 0.5
        return maps.mul(-share * (found / lengths)[:, None]).addcmul_(targets.to(maps), along), None
