"""A cache of the float network's outputs: each sample is computed once, though epochs repeat it."""

import math
from tempfile import SpooledTemporaryFile
from types import TracebackType
from typing import Self

import torch
from torch import Tensor

from srptq_plugin.errors import SrptqError
from srptq_plugin.planning.prepared_graph import PreparedGraph

IN_MEMORY = 16 * 2**20
"""Bytes above which the outputs go to a temporary file."""
TensorSpec = tuple[torch.Size, torch.dtype]
"""Shape and type of one sample."""


def normalized(features: Tensor) -> Tensor:
    """Return each sample's map, flat and of root mean square 1: its direction (eq. 7).

    A map of norm 1 would have values that float16 rounds coarsely. These are about 1. A map of zeros stays zero.

    >>> normalized(torch.full((1, 1, 2, 2), 3.0))
    tensor([[1., 1., 1., 1.]])
    """
    flat = features.flatten(1)
    return torch.nn.functional.normalize(flat, dim=1, eps=1e-30).mul_(math.sqrt(flat.shape[1]))


class Teacher:
    """The float network's outputs in float32 and its normalized block maps in float16, by sample number.

    Within `with` they are in memory or in a temporary file.
    """

    def __init__(self, prepared: PreparedGraph, images: Tensor, batch: int) -> None:
        self._prepared, self._images, self._batch = prepared, images, batch
        self._file = SpooledTemporaryFile(IN_MEMORY)  # noqa: SIM115 - closed at exit
        self._parts: list[TensorSpec] = []

    def __enter__(self) -> Self:
        try:
            self._write()
        except OSError as error:
            self._file.close()
            raise SrptqError(
                f"no room for the float network's outputs, {len(self._images) * self._size / 2**20:.0f} MiB in the "
                f"folder of temporary files ({error}); set TMPDIR to one that has it, or give fewer patches"
            ) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def __call__(self, samples: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the float output and the normalized block maps of some samples.

        Args:
            samples: The numbers of the samples.
        """
        batch = [torch.empty((len(samples), *shape), dtype=dtype) for shape, dtype in self._parts]
        for index, number in enumerate(samples.tolist()):
            self._file.seek(number * self._size)
            for part in batch:
                self._file.readinto(part[index].numpy().data)
        output, *maps = (part.to(self._images.device) for part in batch)
        return output, maps

    @property
    def _size(self) -> int:
        """Bytes of a sample."""
        return sum(shape.numel() * dtype.itemsize for shape, dtype in self._parts)

    def _write(self) -> None:
        # Samples lie one behind another, each with its output and then its maps: a sample is one seek away.
        for images in self._images.split(self._batch):
            output, maps = self._prepared.float_forward(images)
            batch = [output.float(), *(normalized(features).half() for features in maps)]
            self._parts = [(part.shape[1:], part.dtype) for part in batch]
            for sample in zip(*(part.cpu() for part in batch), strict=True):
                for values in sample:
                    self._file.write(values.contiguous().numpy().data)
