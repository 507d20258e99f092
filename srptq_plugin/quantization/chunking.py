"""Large tensors a piece at a time, so that one pass after another over a piece stays in the processor's cache."""

from collections.abc import Iterable, Iterator

from torch import Tensor

CHUNK = {"cpu": 2**18}
"""How many values are looked at together: as many as a processor's cache holds. Elsewhere many more."""


def chunk_size(values: Tensor) -> int:
    """How many values of a tensor to look at together."""
    return CHUNK.get(values.device.type, 2**26)


def iter_columns(rows: Tensor) -> Iterator[Tensor]:
    """Rows [rows, n] cut across.

    >>> import torch
    >>> [piece.shape[1] for piece in iter_columns(torch.zeros(2, 2**18))]
    [131072, 131072]
    """
    yield from rows.split(max(1, chunk_size(rows) // len(rows)), dim=1)


def iter_chunks(*tensors: Tensor) -> Iterable[tuple[Tensor, ...]]:
    """The same values of tensors of one shape, flat; the tensors themselves where they are small or scattered.

    >>> import torch
    >>> [[len(each) for each in some] for some in iter_chunks(torch.zeros(3 * 2**17), torch.zeros(3 * 2**17))]
    [[262144, 262144], [131072, 131072]]
    """
    size = chunk_size(tensors[0])
    if tensors[0].numel() <= size or not all(each.is_contiguous() for each in tensors):
        return [tensors]
    return zip(*(each.view(-1).split(size) for each in tensors), strict=True)
