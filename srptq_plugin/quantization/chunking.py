"""Large tensors a piece at a time, so that one pass after another over a piece stays in the processor's cache."""

from collections.abc import Iterable, Iterator

from torch import Tensor

PIECE = {"cpu": 2**18}
"""How many values are looked at together: as many as a processor's cache holds. Elsewhere many more."""


def piece(values: Tensor) -> int:
    """How many values of a tensor to look at together."""
    return PIECE.get(values.device.type, 2**26)


def across(rows: Tensor) -> Iterator[Tensor]:
    """Rows [rows, n] cut across.

    >>> import torch
    >>> [piece.shape[1] for piece in across(torch.zeros(2, 2**18))]
    [131072, 131072]
    """
    yield from rows.split(max(1, piece(rows) // len(rows)), dim=1)


def alongside(*tensors: Tensor) -> Iterable[tuple[Tensor, ...]]:
    """The same values of tensors of one shape, flat; the tensors themselves where they are small or scattered.

    >>> import torch
    >>> [[len(each) for each in some] for some in alongside(torch.zeros(3 * 2**17), torch.zeros(3 * 2**17))]
    [[262144, 262144], [131072, 131072]]
    """
    size = piece(tensors[0])
    if tensors[0].numel() <= size or not all(each.is_contiguous() for each in tensors):
        return [tensors]
    return zip(*(each.view(-1).split(size) for each in tensors), strict=True)
