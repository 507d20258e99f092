"""Large tensors in chunks that stay in the processor's cache while several passes go over them."""

from collections.abc import Iterable, Iterator

from torch import Tensor

CHUNK = {"cpu": 2**18}
"""Values in a chunk, by type of device. On a CPU it is 1 MiB of float32, which fits the cache."""


def chunk_size(values: Tensor) -> int:
    """Return how many values of a tensor a chunk holds."""
    return CHUNK.get(values.device.type, 2**26)


def iter_columns(rows: Tensor) -> Iterator[Tensor]:
    """Yield chunks [rows, some columns] of a tensor [rows, columns].

    >>> import torch
    >>> [columns.shape[1] for columns in iter_columns(torch.zeros(2, 2**18))]
    [131072, 131072]
    """
    yield from rows.split(max(1, chunk_size(rows) // len(rows)), dim=1)


def iter_chunks(*tensors: Tensor) -> Iterable[tuple[Tensor, ...]]:
    """Return chunks of tensors of one shape, each as a tuple of flat views of the same values.

    Tensors that are small or not contiguous are one chunk, in their own shape.

    >>> import torch
    >>> left, right = torch.zeros(3 * 2**17), torch.zeros(3 * 2**17)
    >>> [[len(values) for values in chunk] for chunk in iter_chunks(left, right)]
    [[262144, 262144], [131072, 131072]]
    """
    size = chunk_size(tensors[0])
    if tensors[0].numel() <= size or not all(tensor.is_contiguous() for tensor in tensors):
        return [tensors]
    return zip(*(tensor.view(-1).split(size) for tensor in tensors), strict=True)
