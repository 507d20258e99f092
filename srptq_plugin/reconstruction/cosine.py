"""The cosine between feature maps, with a gradient that saves no intermediate of a map's size."""

from typing import Any

import torch
from torch import Tensor


def cosines(maps: Tensor, targets: Tensor) -> Tensor:
    """Return the cosine between each sample's map and its target.

    Args:
        maps: Feature maps, [samples, ...].
        targets: Flat maps, [samples, values], each of root mean square 1. They get no gradient.

    >>> cosines(torch.tensor([[3.0, 3.0], [0.0, 2.0]]), torch.tensor([[1.0, 1.0], [1.0, -1.0]]))
    tensor([ 1.0000, -0.7071])
    """
    return _Cosines.apply(maps.flatten(1), targets)  # pyright: ignore[reportReturnType]


class _Cosines(torch.autograd.Function):
    """The cosine c = x.t / (|x| |t|), whose gradient is t / (|x| |t|) - c x / |x|^2.

    Plain autograd would save a normalized copy of every map. This saves the map itself, which the network keeps anyway,
    and the target in half precision.
    """

    @staticmethod
    def forward(ctx: Any, maps: Tensor, targets: Tensor) -> Tensor:
        size = maps.shape[1] ** 0.5  # |t|, as the root mean square of a target is 1
        # A map of zeros has no direction: the clamp makes its cosine 0 instead of NaN.
        lengths = maps.norm(dim=1).clamp(min=1e-30)
        values = torch.linalg.vecdot(maps, targets.to(maps)) / (lengths * size)
        ctx.save_for_backward(maps, targets, lengths, values)
        return values

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        maps, targets, lengths, values = ctx.saved_tensors
        share = (gradients[0] / lengths)[:, None]
        along = share / maps.shape[1] ** 0.5
        # -c x / |x|^2 + t / (|x| |t|), in one buffer of a map's size.
        return maps.mul(-share * (values / lengths)[:, None]).addcmul_(targets.to(maps), along), None
