"""Exchange between processes that work on one network under torch.distributed. A single process exchanges nothing."""

from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from itertools import zip_longest
from typing import Any, Protocol, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from srptq_plugin.errors import SrptqError

T = TypeVar("T")


class _Sliceable(Protocol):
    def __getitem__(self, key: slice, /) -> Any: ...


S = TypeVar("S", bound=_Sliceable)
_ABSENT = object()


class LostProcessError(SrptqError):
    """Another process ended, so that this one waits in vain for its share."""


def world_size() -> int:
    """Return the number of processes that work together.

    >>> world_size()
    1
    """
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return the number of this process, from 0.

    >>> rank()
    0
    """
    return dist.get_rank() if world_size() > 1 else 0


def is_first() -> bool:
    """Tell whether this process is the one that writes files and reports."""
    return rank() == 0


def own_indices(count: int) -> range:
    """Return the indices of this process's `count` items among the items of all processes, which take turns.

    >>> own_indices(3)
    range(0, 3)
    """
    # Rank r holds items r, r + world size, r + 2 * world size, as a DistributedSampler deals them out.
    return range(rank(), rank() + count * world_size(), world_size())


def deal(items: S) -> S:
    """Return this process's share of the items of all processes. It takes every Nth.

    >>> deal("abc")
    'abc'
    """
    return items[rank() :: world_size()]


def collect(own: Sequence[T]) -> list[T]:
    """Return the items of all processes in their order, from the results for the items that `deal` gave each.

    >>> collect("abc")
    ['a', 'b', 'c']
    """
    turns = zip_longest(*all_gather(own), fillvalue=_ABSENT)
    return [item for turn in turns for item in turn if item is not _ABSENT]  # pyright: ignore[reportReturnType]


def all_gather(own: T) -> list[T]:
    """Return the objects of all processes, in the order of their ranks.

    >>> all_gather("mine")
    ['mine']
    """
    if world_size() == 1:
        return [own]
    gathered: list[tuple[T]] = [(own,)] * world_size()
    with _peers():
        dist.all_gather_object(gathered, (own,))
    return [item for (item,) in gathered]


def gather(own: T) -> list[T]:
    """Return the objects of all processes in the first, and nothing in the others.

    >>> gather("mine")
    ['mine']
    """
    if world_size() == 1:
        return [own]
    gathered: list[tuple[T]] | None = [(own,)] * world_size() if is_first() else None
    with _peers():
        dist.gather_object((own,), gathered)
    return [item for (item,) in gathered or ()]


def from_first(work: Callable[[], T]) -> T:
    """Let the first process do some work, and return its result in all. They raise its error as well.

    >>> from_first(lambda: "its result")
    'its result'
    """
    if world_size() == 1:
        return work()
    outcome: list[tuple[T | None, SrptqError | None]] = [(None, None)]
    error: Exception | None = None
    if is_first():
        try:
            outcome = [(work(), None)]
        except Exception as raised:  # noqa: BLE001 - the others wait, whatever it is
            error = raised
            outcome = [(None, error if isinstance(error, SrptqError) else LostProcessError(f"process 0: {error}"))]
    with _peers():
        dist.broadcast_object_list(outcome)
    value, refusal = outcome[0]
    if error or refusal:
        raise error or refusal  # pyright: ignore[reportGeneralTypeIssues] - one of them is an error
    return value  # pyright: ignore[reportReturnType]


def all_reduce_mean(tensors: Iterable[Tensor]) -> None:
    """Replace each tensor by its mean over all processes."""
    count = world_size()
    if count == 1:
        return
    alike: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
    for tensor in tensors:
        alike.setdefault((tensor.dtype, tensor.device), []).append(tensor)
    for group in alike.values():
        # One exchange for all: hundreds of bounds would otherwise wait for the network one after another.
        flat = torch.cat([tensor.detach().reshape(-1) for tensor in group])
        with _peers():
            dist.all_reduce(flat)
        parts = flat.div_(count).split([tensor.numel() for tensor in group])
        for tensor, part in zip(group, parts, strict=True):
            tensor.detach().copy_(part.view_as(tensor))


@contextmanager
def _peers() -> Generator[None]:
    """Name the cause if an exchange fails. Backends raise errors of their own kinds when a process has gone."""
    try:
        yield
    except RuntimeError as error:
        raise LostProcessError(
            "another process ended, and this one cannot go on without its share; see the messages of the others"
        ) from error
