"""Exchange between processes that calibrate one network under torch.distributed. A single process exchanges nothing."""

from collections.abc import Iterable
from typing import TypeVar

import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


def world_size() -> int:
    """Return the number of processes that work together.

    >>> world_size()
    1
    """
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def own_indices(count: int) -> range:
    """Return the indices of this process's `count` items among the items of all processes, which take turns.

    >>> own_indices(3)
    range(0, 3)
    """
    # Rank r holds items r, r + world size, r + 2 * world size, as a DistributedSampler deals them out.
    first = dist.get_rank() if world_size() > 1 else 0
    return range(first, first + count * world_size(), world_size())


def all_gather(own: T) -> list[T]:
    """Return the objects of all processes, in the order of their ranks.

    >>> all_gather("mine")
    ['mine']
    """
    if world_size() == 1:
        return [own]
    gathered: list[T | None] = [None] * world_size()
    dist.all_gather_object(gathered, own)
    return [item for item in gathered if item is not None]


def all_reduce_mean(tensors: Iterable[Tensor]) -> None:
    """Replace each tensor by its mean over all processes."""
    count = world_size()
    if count == 1:
        return
    for tensor in tensors:
        dist.all_reduce(tensor)
        tensor.div_(count)
