"""What the float network answers, computed once a sample: samples repeat at every epoch."""

import math
from tempfile import SpooledTemporaryFile
from types import TracebackType
from typing import Self

import torch
from torch import Tensor

from srptq_plugin.errors import SrptqError
from srptq_plugin.planning.prepared_graph import PreparedGraph

IN_MEMORY = 16 * 2**20
"""Bytes of answers above which they live in a temporary file."""
TensorSpec = tuple[torch.Size, torch.dtype]


def normalized(features: Tensor) -> Tensor:
    """Each sample's map, flat, of root mean square 1: its direction (eq. 7), in numbers that float16 holds well.

    >>> normalized(torch.full((1, 1, 2, 2), 3.0))
    tensor([[1., 1., 1., 1.]])
    """
    flat = features.flatten(1)
    return torch.nn.functional.normalize(flat, dim=1, eps=1e-30).mul_(math.sqrt(flat.shape[1]))


class Teacher:
    """Outputs in float32 and normalized block maps in float16, by sample number."""

    def __init__(self, prepared: PreparedGraph, images: Tensor, batch: int) -> None:
        self._prepared, self._images, self._batch = prepared, images, batch
        self._answers = SpooledTemporaryFile(IN_MEMORY)  # noqa: SIM115 - closed at exit
        self._parts: list[TensorSpec] = []

    def __enter__(self) -> Self:
        try:
            self._write()
        except OSError as error:
            self._answers.close()
            raise SrptqError(
                f"no room for what the float network answers, {len(self._images) * self._size / 2**20:.0f} MiB in the "
                f"folder of temporary files ({error}); set TMPDIR to one that has it, or give fewer patches"
            ) from error
        return self

    def _write(self) -> None:
        for images in self._images.split(self._batch):
            output, maps = self._prepared.float_forward(images)
            batch = [output.float(), *(normalized(each).half() for each in maps)]
            self._parts = [(each.shape[1:], each.dtype) for each in batch]
            for sample in zip(*(each.cpu() for each in batch), strict=True):
                for each in sample:
                    self._answers.write(each.contiguous().numpy().data)

    @property
    def _size(self) -> int:
        """Bytes of a sample."""
        return sum(shape.numel() * dtype.itemsize for shape, dtype in self._parts)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._answers.close()

    def __call__(self, chosen: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The float output and normalized block maps of some samples."""
        batch = [torch.empty((len(chosen), *shape), dtype=dtype) for shape, dtype in self._parts]
        for place, number in enumerate(chosen.tolist()):
            self._answers.seek(number * self._size)
            for each in batch:
                self._answers.readinto(each[place].numpy().data)
        output, *maps = (each.to(self._images.device) for each in batch)
        return output, maps
