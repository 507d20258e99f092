"""What the float network answers, computed once a sample: samples repeat at every epoch."""

import tempfile
from contextlib import ExitStack
from types import TracebackType
from typing import Self

import torch
from torch import Tensor

from srptq_plugin.graph import PreparedGraph

MAPPED_ABOVE = 512 * 2**20
"""Bytes of cached maps above which they live in a memory-mapped file."""


def normalised(features: Tensor) -> Tensor:
    """Each sample's map, flat, divided by its own L2 norm (eq. 7).

    >>> normalised(torch.full((1, 1, 2, 2), 3.0))
    tensor([[0.5000, 0.5000, 0.5000, 0.5000]])
    """
    return torch.nn.functional.normalize(features.flatten(1), dim=1, eps=1e-30)


class Teacher:
    """Outputs in float32 and unit block maps in float16, by sample number."""

    def __init__(self, prepared: PreparedGraph, images: Tensor, batch: int) -> None:
        self._prepared, self._images, self._batch = prepared, images, batch
        self._stack = ExitStack()
        self._outputs = torch.empty(0)
        self._maps: list[Tensor] = []

    def __enter__(self) -> Self:
        for chosen in torch.arange(len(self._images)).split(self._batch):
            output, maps = self._prepared.teach(self._images[chosen])
            if not self._maps:
                self._outputs = output.new_empty((len(self._images), *output.shape[1:]))
                self._maps = self._reserve(maps)
            self._outputs[chosen] = output
            for kept, each in zip(self._maps, maps, strict=True):
                kept[chosen] = normalised(each).mul_(_spread(each)).half()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._maps.clear()
        self._stack.close()

    def __call__(self, chosen: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The float output and unit block maps of some samples."""
        return self._outputs[chosen], [self._unit(kept[chosen]) for kept in self._maps]

    def _unit(self, kept: Tensor) -> Tensor:
        return kept.to(self._outputs.device).float() / _spread(kept)

    def _reserve(self, maps: tuple[Tensor, ...]) -> list[Tensor]:
        shapes = [(len(self._images), each[0].numel()) for each in maps]
        if sum(2 * rows * columns for rows, columns in shapes) <= MAPPED_ABOVE:
            return [
                torch.empty(shape, dtype=torch.half, device=m.device) for shape, m in zip(shapes, maps, strict=True)
            ]
        folder = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="srptq-"))
        return [
            torch.from_file(f"{folder}/{n}", True, rows * columns, dtype=torch.half).view(rows, columns)  # noqa: FBT003
            for n, (rows, columns) in enumerate(shapes)
        ]


def _spread(features: Tensor) -> float:
    """Brings unit maps to values around one, where float16 is precise."""
    return features[0].numel() ** 0.5
