"""The cost of a target's grid at each site, against the paper's real offset, and what tuning on that grid won back."""

import math
from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor, nn

from srptq_plugin.planning.prepared_graph import PreparedGraph
from srptq_plugin.quantization.grid import Bounds, IntGrid, QParams, project
from srptq_plugin.quantization.quantizer import BoundedFakeQuantize, Mode, fake_quantize

FINEST = 1e-30
"""The least power, so that ratios and logarithms are finite."""


@dataclass(frozen=True)
class GridCost:
    """The signal to quantization noise at one site, in dB, on the float network's tensors."""

    paper: float
    """On the observed bounds, on a grid with a real offset."""
    target: float
    """On the observed bounds, on the target's grid."""
    tuned: float
    """On the tuned bounds, on the target's grid."""

    @property
    def cost(self) -> float:
        """The loss on the target's grid.

        >>> GridCost(30.0, 28.5, 29.0).cost, GridCost(30.0, 28.5, 29.0).won
        (1.5, 0.5)
        """
        return self.paper - self.target

    @property
    def won(self) -> float:
        """The gain by tuning. It is negative if tuning gave up some of this site for the sake of the image."""
        return self.tuned - self.target


@dataclass
class _Sums:
    """The power of a tensor, and of the noise of each way of rounding it."""

    ways: tuple[QParams, ...]
    signal: float = 0.0
    noise: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])

    def add(self, values: Tensor) -> None:
        self.signal += float(values.double().square().sum())
        for n, way in enumerate(self.ways):
            # Sums over a batch are in float64: small differences of large tensors would vanish in float32.
            self.noise[n] += float((fake_quantize(values, way) - values).double().square().sum())

    def cost(self) -> GridCost:
        decibels = [10 * math.log10(max(self.signal, FINEST) / max(noise, FINEST)) for noise in self.noise]
        return GridCost(*decibels)


def observed_bounds(prepared: PreparedGraph) -> dict[str, Bounds]:
    """Return the bounds that observers chose, before any grid, for groups that were observed and keep bounds."""
    static = ((group, quantizer) for group, quantizer in prepared.quantizers.items() if not quantizer.dynamic)
    return {group: quantizer.observed for group, quantizer in static if quantizer.observed is not None}


def tuned_bounds(prepared: PreparedGraph) -> dict[str, Bounds]:
    """Return the learnable bounds after tuning, before any grid."""
    learnable = {group: q for group, q in prepared.quantizers.items() if not (q.fixed or q.dynamic)}
    return {group: Bounds.of(q.bounds.lower, q.bounds.upper) for group, q in learnable.items()}


def grid_costs(prepared: PreparedGraph, observed: Mapping[str, Bounds], images: Tensor) -> dict[str, GridCost]:
    """Measure the cost of the grid at each group on the float network's tensors.

    Args:
        observed: The bounds before tuning.
    """
    sums = {group: _Sums(_ways(prepared.quantizers[group], bounds)) for group, bounds in observed.items()}
    with prepared.mode(Mode.OFF), torch.no_grad(), _listening(prepared, sums):
        prepared(images)
    return {group: tensor.cost() for group, tensor in sums.items()}


def _ways(quantizer: BoundedFakeQuantize, bounds: Bounds) -> tuple[QParams, ...]:
    grid = quantizer.grid
    # The paper's grid has a real offset: the same levels, without a zero point rounded to an integer.
    paper = replace(IntGrid(grid.bits), channel_axis=grid.channel_axis, float_zero_point=True)
    return project(bounds, paper), quantizer.project(bounds).detach(), quantizer.qparams().detach()


@contextmanager
def _listening(prepared: PreparedGraph, sums: Mapping[str, _Sums]) -> Generator[None]:
    with ExitStack() as stack:
        for group, tensor in sums.items():
            handle = prepared.quantizers[group].register_forward_pre_hook(partial(_listen, tensor))
            stack.callback(handle.remove)
        yield


def _listen(sums: _Sums, _module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    sums.add(inputs[0].detach())
