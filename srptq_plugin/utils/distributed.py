"""Several processes that calibrate one network together, under torch.distributed; alone, nothing is exchanged."""

from collections.abc import Iterable
from typing import TypeVar

import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


def processes() -> int:
    """How many processes work together.

    >>> processes()
    1
    """
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def places(count: int) -> range:
    """Where this process's items are among those of all, which are dealt out in turn.

    >>> places(3)
    range(0, 3)
    """
    first = dist.get_rank() if processes() > 1 else 0
    return range(first, first + count * processes(), processes())


def gathered(own: T) -> list[T]:
    """What every process holds, in the order of their ranks.

    >>> gathered("mine")
    ['mine']
    """
    if processes() == 1:
        return [own]
    everyone: list[T | None] = [None] * processes()
    dist.all_gather_object(everyone, own)
    return [each for each in everyone if each is not None]


def average(tensors: Iterable[Tensor]) -> None:
    """Replace each tensor by its mean over all processes."""
    count = processes()
    for tensor in tensors if count > 1 else ():
        dist.all_reduce(tensor)
        tensor.div_(count)
