"""What a target's grid costs at each site against the paper's real offset, and what tuning on that grid won back."""

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


@dataclass(frozen=True)
class GridCost:
    """Signal to quantization noise at one site, in dB, on the float network's tensors.

    `paper`: the bounds as observed, on a grid with a real offset; `target`: the same bounds on the target's grid;
    `tuned`: the bounds as they ended, on the target's grid.
    """

    paper: float
    target: float
    tuned: float

    @property
    def cost(self) -> float:
        """What the target's grid costs.

        >>> GridCost(30.0, 28.5, 29.0).cost, GridCost(30.0, 28.5, 29.0).won
        (1.5, 0.5)
        """
        return self.paper - self.target

    @property
    def won(self) -> float:
        """What tuning won back; negative where it gave some of this site up for the image."""
        return self.tuned - self.target


@dataclass
class _Sums:
    """The power of a tensor, and of what each way of rounding it leaves."""

    ways: tuple[QParams, ...]
    signal: float = 0.0
    noise: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])

    def add(self, values: Tensor) -> None:
        self.signal += float(values.double().square().sum())
        for n, way in enumerate(self.ways):
            self.noise[n] += float((fake_quantize(values, way) - values).double().square().sum())

    def projection(self) -> GridCost:
        decibels = [10 * math.log10(max(self.signal, FINEST) / max(noise, FINEST)) for noise in self.noise]
        return GridCost(*decibels)


def observed_bounds(prepared: PreparedGraph) -> dict[str, Bounds]:
    """What the observers found, before any grid; nothing for what was not observed, or has no bounds to keep."""
    kept = ((group, each) for group, each in prepared.quantizers.items() if not each.dynamic)
    return {group: each.observed for group, each in kept if each.observed is not None}


def tuned_bounds(prepared: PreparedGraph) -> dict[str, Bounds]:
    """Where the bounds that could learn have ended, before any grid."""
    kept = {group: each for group, each in prepared.quantizers.items() if not (each.fixed or each.dynamic)}
    return {group: Bounds.of(each.bounds.lower, each.bounds.upper) for group, each in kept.items()}


def grid_costs(prepared: PreparedGraph, observed: Mapping[str, Bounds], images: Tensor) -> dict[str, GridCost]:
    """By group; `observed` are the bounds before they were tuned."""
    sums = {group: _Sums(_ways(prepared.quantizers[group], bounds)) for group, bounds in observed.items()}
    with prepared.mode(Mode.OFF), torch.no_grad(), _listening(prepared, sums):
        prepared(images)
    return {group: each.projection() for group, each in sums.items()}


def _ways(quantizer: BoundedFakeQuantize, bounds: Bounds) -> tuple[QParams, ...]:
    grid = quantizer.grid
    paper = replace(IntGrid(grid.bits), channel_axis=grid.channel_axis, float_zero_point=True)
    return project(bounds, paper), quantizer.project(bounds).detach(), quantizer.qparams().detach()


@contextmanager
def _listening(prepared: PreparedGraph, sums: Mapping[str, _Sums]) -> Generator[None]:
    with ExitStack() as stack:
        for group, each in sums.items():
            handle = prepared.quantizers[group].register_forward_pre_hook(partial(_listen, each))
            stack.callback(handle.remove)
        yield


def _listen(sums: _Sums, _module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    sums.add(inputs[0].detach())
