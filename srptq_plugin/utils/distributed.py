"""Several processes that calibrate one network together, under torch.distributed; alone, nothing is exchanged."""

from collections.abc import Iterable
from typing import TypeVar

import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


def world_size() -> int:
    """How many processes work together.

    >>> world_size()
    1
    """
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def own_indices(count: int) -> range:
    """Where this process's items are among those of all, which are dealt out in turn.

    >>> own_indices(3)
    range(0, 3)
    """
    first = dist.get_rank() if world_size() > 1 else 0
    return range(first, first + count * world_size(), world_size())


def all_gather(own: T) -> list[T]:
    """What every process holds, in the order of their ranks.

    >>> all_gather("mine")
    ['mine']
    """
    if world_size() == 1:
        return [own]
    everyone: list[T | None] = [None] * world_size()
    dist.all_gather_object(everyone, own)
    return [each for each in everyone if each is not None]


def all_reduce_mean(tensors: Iterable[Tensor]) -> None:
    """Replace each tensor by its mean over all processes."""
    count = world_size()
    for tensor in tensors if count > 1 else ():
        dist.all_reduce(tensor)
        tensor.div_(count)
