"""`BatchObserver`, the base class of all observers, and the records that its subclasses work with.

A subclass implements two methods. `measure` summarizes one batch as a state. `row_bounds` turns the joined states of
all batches into bounds. The base class splits channels into rows, groups tensors into batches, refuses NaN and merges.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Generic, Protocol, Self, TypeVar

import torch
from numpy import count_nonzero
from torch import Tensor

from srptq_plugin.errors import SrptqError
from srptq_plugin.quantization.chunking import iter_columns
from srptq_plugin.quantization.grid import Bounds, IntGrid
from srptq_plugin.quantization.observer import Observer
from srptq_plugin.utils.options import Options


@dataclass(frozen=True)
class TensorRows:
    """One tensor as [rows, n] in float32, with the extremes of each row in float64 on the CPU.

    >>> TensorRows.of(torch.tensor([[1.0, 2.0], [-3.0, 4.0]]), axis=0).low.tolist()
    [1.0, -3.0]
    """

    rows: Tensor
    low: Tensor
    high: Tensor

    @classmethod
    def of(cls, values: Tensor, axis: int | None) -> "TensorRows":
        """Make one row per channel along `axis`, or a single row without an axis."""
        values = values.detach().float()
        channels = values[None] if axis is None else values.movedim(axis, 0)
        rows = channels.reshape(len(channels), values.numel() // max(len(channels), 1))
        if not rows.numel():
            raise SrptqError("the tensor is empty")
        # A full reduction runs on all threads. A reduction along the only row runs on one.
        ends = torch.stack(rows.aminmax(dim=1)) if len(rows) > 1 else torch.stack(rows.aminmax())[:, None]
        # aminmax propagates NaN, so the extremes are finite only if all values are.
        if not ends.isfinite().all():
            raise SrptqError("NaN or infinity in the tensor")
        low, high = ends.cpu().double()
        return cls(rows, low, high)

    @property
    def zeros(self) -> Tensor:
        """The number of values in each row that are exactly zero."""
        nonzeros = sum((_count_nonzero(chunk) for chunk in iter_columns(self.rows)), torch.zeros(()))
        return self.rows.shape[1] - nonzeros.double()

    def clone(self) -> "TensorRows":
        """Return a copy that survives a network which works in place."""
        return replace(self, rows=self.rows.clone())


def extremes(batch: Sequence[TensorRows]) -> tuple[Tensor, Tensor]:
    """Return the lowest and the highest value of each row over all tensors of a batch."""
    low = torch.stack([tensor.low for tensor in batch])
    high = torch.stack([tensor.high for tensor in batch])
    return low.amin(0), high.amax(0)


class State(Protocol):
    """The summary of the batches that an observer saw. Joining two states gives the state of all their batches."""

    def join(self, other: Self) -> Self:
        """Return the state of an observer that saw the batches of both."""
        ...


@dataclass(frozen=True)
class Average:
    """A mean over batches.

    >>> Average(torch.tensor(1.0), count=2).join(Average(torch.tensor(4.0))).value.item()
    2.0
    """

    value: Tensor
    count: int = 1

    def join(self, other: Self, share: float | None = None) -> Self:
        """Return the mean of both, weighted by batches.

        Args:
            other: The state to join.
            share: The weight of `other`, for a moving average.
        """
        count = self.count + other.count
        share = other.count / count if share is None else share
        return replace(self, value=self.value + (other.value - self.value) * share, count=count)


S = TypeVar("S", bound=State)


class BatchObserver(ABC, Generic[S]):
    """An observer whose subclasses summarize batches of [rows, n] as a state.

    `tensors_per_batch` tensors share the observer. One batch is that many consecutive `update()` calls.
    """

    options_type: ClassVar[type[Options]] = Options
    """The record of the observer's options. A subclass with options has a record of its own."""

    def __init__(self, grid: IntGrid, *, tensors_per_batch: int = 1, **options: object) -> None:
        if tensors_per_batch < 1:
            raise SrptqError(f"tensors_per_batch: {tensors_per_batch}; give 1 or more")
        self.grid, self.tensors_per_batch = grid, tensors_per_batch
        self.options: Any = self.options_type.parse(options, "options")
        # States hold rows, so `row_bounds` projects on the grid without its channel axis.
        self.row_grid = replace(grid, channel_axis=None)
        self.state: S | None = None
        self.batches, self.channels = 0, 0
        self.device = torch.device("cpu")
        self._pending: list[TensorRows] = []

    @abstractmethod
    def measure(self, batch: Sequence[TensorRows]) -> S:
        """Summarize one batch as a state."""

    @abstractmethod
    def row_bounds(self, state: S) -> Bounds:
        """Compute the bounds of each row from the state of all batches."""

    def accumulate(self, state: S, batch: S) -> S:
        """Return the state after one more batch. Override it where the order of batches matters."""
        return state.join(batch)

    def update(self, values: Tensor) -> None:
        """Observe one tensor. The batch is measured once it has `tensors_per_batch` tensors."""
        try:
            tensor = TensorRows.of(values, self.grid.channel_axis)
            self._check_channels(len(tensor.rows))
        except SrptqError as error:
            raise SrptqError(f"batch {self.batches + 1}: {error}") from None
        self.device = values.device
        # A tensor that waits for the rest of its batch needs a copy: the network may overwrite it in place.
        self._pending.append(tensor if self.tensors_per_batch == 1 else tensor.clone())
        if len(self._pending) == self.tensors_per_batch:
            self.close_batch()

    def close_batch(self) -> None:
        """Measure the tensors that wait, even if the batch is not full."""
        if self._pending:
            batch, self._pending = self.measure(self._pending), []
            self.state = batch if self.state is None else self.accumulate(self.state, batch)
            self.batches += 1

    def merge(self, other: Observer) -> None:
        """Add the batches of another observer with the same grid and options.

        A single batch is added as if this observer had seen it, to the last bit.
        """
        if not isinstance(other, type(self)) or (other.grid, other.options) != (self.grid, self.options):
            raise SrptqError(f"only another {type(self).__name__} with the same grid and options can be merged")
        self.close_batch()
        other.close_batch()
        if other.state is not None:
            self._check_channels(other.channels)
            join = self.accumulate if other.batches == 1 else _join
            self.state = other.state if self.state is None else join(self.state, other.state)
            self.batches += other.batches

    def require_state(self) -> S:
        """Close the last batch and return the state. Raise `SrptqError` if nothing was observed."""
        self.close_batch()
        if self.state is None:
            raise SrptqError("no batch was observed; run calibration images before asking for bounds")
        return self.state

    def bounds(self) -> Bounds:
        """Return the bounds over all batches, on the device of the observed tensors.

        They are scalars, or one value per channel if the grid has a channel axis.
        """
        return self._shape(self.row_bounds(self.require_state()))

    def _shape(self, rows: Bounds) -> Bounds:
        lower, upper = rows.lower.to(self.device), rows.upper.to(self.device)
        return Bounds.of(lower[0], upper[0]) if self.grid.channel_axis is None else Bounds.of(lower, upper)

    def _check_channels(self, channels: int) -> None:
        if self.channels and channels != self.channels:
            raise SrptqError(f"{channels} channels where earlier tensors had {self.channels}")
        self.channels = channels


def _join(state: S, other: S) -> S:
    return state.join(other)


def _count_nonzero(rows: Tensor) -> Tensor:
    if rows.device.type != "cpu":
        return rows.count_nonzero(dim=1).cpu()
    # NumPy counts booleans several times as fast as torch does on the CPU.
    return torch.tensor([count_nonzero(row.numpy()) for row in rows.bool()])
