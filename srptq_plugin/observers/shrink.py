"""The search that mse and entropy share: shrink both bounds together, keep the cheapest."""

from abc import abstractmethod
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from srptq_plugin.errors import SrptqError
from srptq_plugin.observers.base import BatchObserver, TensorRows
from srptq_plugin.observers.histogram import RunningHistogram
from srptq_plugin.quantization.grid import Bounds, IntGrid, QParams, project

BINS, CHANNEL_BINS = 4096, 1024


class ShrinkSearch(BatchObserver[RunningHistogram]):
    """Shrinks the extremes toward zero by one of `steps` equal factors down from 1, that of least cost.

    `bins` are those of the histogram: 4096, or 1024 for each channel, unless given.
    """

    def __init__(self, grid: IntGrid, *, steps: int = 100, bins: int | None = None, tensors_per_batch: int = 1) -> None:
        super().__init__(grid, tensors_per_batch=tensors_per_batch)
        self.steps, self.bins = steps, bins or (BINS if grid.channel_axis is None else CHANNEL_BINS)
        if steps < 1 or self.bins < 2:  # noqa: PLR2004  a range has two ends
            raise SrptqError(f"steps: {steps}, bins: {self.bins}; give at least 1 and 2")

    @abstractmethod
    def cost(self, seen: RunningHistogram, qparams: QParams) -> Tensor:
        """The cost of each row, the parameters being shaped [rows, 1]."""

    def measure(self, batch: Sequence[TensorRows]) -> RunningHistogram:
        """The histogram of the batch."""
        return RunningHistogram.of(batch, self.bins)

    def candidates(self, seen: RunningHistogram) -> Iterator[tuple[Tensor, Tensor]]:
        """Each pair of bounds, the widest first, shaped [2, rows], and what it costs each row."""
        extremes = torch.stack([seen.low, seen.high])
        anchor = torch.zeros_like(seen.low).clamp(seen.low, seen.high)
        for factor in torch.arange(self.steps, 0, -1, dtype=torch.float64) / self.steps:
            ends = torch.lerp(anchor, extremes, factor)
            yield ends, self.cost(seen, project(Bounds(*ends[:, :, None]), self.row_grid))

    def row_bounds(self, seen: RunningHistogram) -> Bounds:
        """The cheapest candidate of each row; of equals, the widest."""
        ends, costs = (torch.stack(each) for each in zip(*self.candidates(seen), strict=True))
        best = costs.argmin(0).expand(1, 2, -1)
        return Bounds(*ends.gather(0, best)[0])
