"""What every observer shares: rows, batches of several tensors_per_batch, refusal of NaN, merging."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import wraps
from inspect import signature
from types import MappingProxyType
from typing import Any, Generic, Protocol, Self, TypeVar

import torch
from numpy import count_nonzero
from torch import Tensor

from srptq_plugin.errors import SrptqError
from srptq_plugin.quantization.chunking import iter_columns
from srptq_plugin.quantization.grid import Bounds, IntGrid
from srptq_plugin.quantization.observer import Observer


@dataclass(frozen=True)
class TensorRows:
    """One tensor as [rows, n] in float32, with each row's extremes in float64 on the CPU.

    >>> TensorRows.of(torch.tensor([[1.0, 2.0], [-3.0, 4.0]]), axis=0).low.tolist()
    [1.0, -3.0]
    """

    rows: Tensor
    low: Tensor
    high: Tensor

    @classmethod
    def of(cls, values: Tensor, axis: int | None) -> "TensorRows":
        """A row for each channel along the axis, or one row."""
        values = values.detach().float()
        channels = values[None] if axis is None else values.movedim(axis, 0)
        rows = channels.reshape(len(channels), values.numel() // max(len(channels), 1))
        if not rows.numel():
            raise SrptqError("the tensor is empty")
        ends = torch.stack(rows.aminmax(dim=1)) if len(rows) > 1 else torch.stack(rows.aminmax())[:, None]
        if not ends.isfinite().all():
            raise SrptqError("NaN or infinity in the tensor")
        low, high = ends.cpu().double()
        return cls(rows, low, high)

    @property
    def zeros(self) -> Tensor:
        """How many values of each row are exactly zero."""
        found = sum((_nonzeros(piece) for piece in iter_columns(self.rows)), torch.zeros(()))
        return self.rows.shape[1] - found.double()

    def clone(self) -> "TensorRows":
        """A copy that a network working in place cannot change."""
        return replace(self, rows=self.rows.clone())


def _nonzeros(rows: Tensor) -> Tensor:
    if rows.device.type != "cpu":
        return rows.count_nonzero(dim=1).cpu()
    return torch.tensor([count_nonzero(row.numpy()) for row in rows.bool()])  # numpy counts truths fastest


def extremes(batch: Sequence[TensorRows]) -> tuple[Tensor, Tensor]:
    """Each row's extremes over all tensors of a batch."""
    low, high = (torch.stack(ends) for ends in zip(*((part.low, part.high) for part in batch), strict=True))
    return low.amin(0), high.amax(0)


class State(Protocol):
    """What an observer remembers: one of two batches is the same as one of both."""

    def join(self, other: Self) -> Self:
        """What an observer that saw both would remember."""
        ...


@dataclass(frozen=True)
class Average:
    """A mean over batches.

    >>> Average(torch.tensor(1.0), count=2).join(Average(torch.tensor(4.0))).value.item()
    2.0
    """

    value: Tensor
    count: int = 1

    def join(self, other: "Average", share: float | None = None) -> "Average":
        """The mean weighted by batches, or with the given share for the other."""
        count = self.count + other.count
        share = other.count / count if share is None else share
        return Average(self.value + (other.value - self.value) * share, count)


S = TypeVar("S", bound=State)


def _noting(construct: Callable[..., None]) -> Callable[..., None]:
    """Return the constructor that first keeps its options as `settings`, of nested ones the outermost's."""
    parameters = signature(construct)

    @wraps(construct)
    def noting(self: Any, *args: Any, **keywords: Any) -> None:
        if "settings" not in vars(self):
            bound = parameters.bind(self, *args, **keywords)
            bound.apply_defaults()
            _, _, *options = bound.arguments.items()
            self.settings = {name: value for name, value in options if name != "tensors_per_batch"}
        construct(self, *args, **keywords)

    return noting


class BatchObserver(ABC, Generic[S]):
    """An observer of [rows, n] batches; a batch is what `tensors_per_batch` consecutive tensors hold together."""

    settings: Mapping[str, object] = MappingProxyType({})
    """The options by which it was constructed, which two observers must have in common to be merged."""

    def __init_subclass__(cls, **keywords: Any) -> None:
        """Let the constructor of a subclass, if it has one, note its arguments."""
        super().__init_subclass__(**keywords)
        if "__init__" in vars(cls):
            cls.__init__ = _noting(cls.__init__)

    def __init__(self, grid: IntGrid, *, tensors_per_batch: int = 1) -> None:
        if tensors_per_batch < 1:
            raise SrptqError(f"tensors_per_batch: {tensors_per_batch}; give 1 or more")
        self.grid, self.tensors_per_batch = grid, tensors_per_batch
        self.row_grid = replace(grid, channel_axis=None)
        self.seen: S | None = None
        self.batches, self.channels = 0, 0
        self.device = torch.device("cpu")
        self._pending: list[TensorRows] = []

    @abstractmethod
    def measure(self, batch: Sequence[TensorRows]) -> S:
        """What there is to remember of one batch."""

    @abstractmethod
    def row_bounds(self, seen: S) -> Bounds:
        """The bounds of each row."""

    def follow(self, seen: S, batch: S) -> S:
        """What to remember after one batch more."""
        return seen.join(batch)

    def update(self, values: Tensor) -> None:
        """Take in one tensor; the batch closes with the last of its tensors_per_batch."""
        try:
            part = TensorRows.of(values, self.grid.channel_axis)
            self._expect(len(part.rows))
        except SrptqError as error:
            raise SrptqError(f"batch {self.batches + 1}: {error}") from None
        self.device = values.device
        self._pending.append(part if self.tensors_per_batch == 1 else part.clone())
        if len(self._pending) == self.tensors_per_batch:
            self.close()

    def _expect(self, channels: int) -> None:
        if channels != (self.channels or channels):
            raise SrptqError(f"{channels} channels where earlier tensors had {self.channels}")
        self.channels = channels

    def close(self) -> None:
        """End the batch, with as many tensors_per_batch as were filled."""
        if self._pending:
            batch, self._pending = self.measure(self._pending), []
            self.seen = batch if self.seen is None else self.follow(self.seen, batch)
            self.batches += 1

    def merge(self, other: Observer) -> None:
        """Take in what another observer with the same grid and options has seen."""
        if not isinstance(other, type(self)) or (other.grid, other.settings) != (self.grid, self.settings):
            raise SrptqError(f"only another {type(self).__name__} with the same grid and options can be merged")
        self.close()
        other.close()
        if other.seen is not None:
            self._expect(other.channels)
            self.seen = other.seen if self.seen is None else self.seen.join(other.seen)
            self.batches += other.batches

    def so_far(self) -> S:
        """What all batches so far left to remember, the last one closed."""
        self.close()
        if self.seen is None:
            raise SrptqError("no batch was observed; run calibration images before asking for bounds")
        return self.seen

    def bounds(self) -> Bounds:
        """The bounds by all batches so far, by channel if the grid has an axis, on the values' device."""
        return self._shaped(self.row_bounds(self.so_far()))

    def _shaped(self, rows: Bounds) -> Bounds:
        """One range, or one for each channel, on the values' device."""
        lower, upper = (end.to(self.device) for end in (rows.lower, rows.upper))
        return Bounds.of(lower[0], upper[0]) if self.grid.channel_axis is None else Bounds.of(lower, upper)
