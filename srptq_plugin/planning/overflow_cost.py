"""The cost of weights that cannot overflow: how many channels got a larger scale, and the noise in the image."""

import math
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from torch import Tensor

from srptq_plugin.planning.prepared_graph import PreparedGraph
from srptq_plugin.quantization.grid import Bounds, project
from srptq_plugin.quantization.quantizer import BoundedFakeQuantize


@dataclass(frozen=True)
class OverflowCost:
    """The output channels with a raised scale, the channels that were checked, and the noise that raising adds."""

    raised: int
    channels: int
    cost_db: float


def overflow_cost(prepared: PreparedGraph, images: Tensor) -> OverflowCost | None:
    """Compare an observed graph with itself at the observed scales. Return None if no weight had to be checked."""
    guarded = [weight for weight in prepared.of_role("weight").values() if weight.grid.pair_limit is not None]
    if not guarded:
        return None
    raised = [_raised(weight) for weight in guarded]
    teacher = prepared.float_forward(images)[0]
    safe = prepared.noise(images, teacher)
    with _unguarded(guarded):
        plain = prepared.noise(images, teacher)
    cost = 10 * math.log10(safe / plain)
    return OverflowCost(sum(int(scales.sum()) for scales in raised), sum(scales.numel() for scales in raised), cost)


def _raised(quantizer: BoundedFakeQuantize) -> Tensor:
    """Tell for each scale of a weight whether it is larger than the observed one."""
    observed = quantizer.observed or quantizer.bounds
    return quantizer.qparams().scale > project(observed, quantizer.grid).scale


@contextmanager
def _unguarded(quantizers: list[BoundedFakeQuantize]) -> Generator[None]:
    """Give weights the observed scales within `with`."""
    before = [(weight, weight.grid, Bounds.of(weight.bounds.lower, weight.bounds.upper)) for weight in quantizers]
    try:
        for weight, grid, bounds in before:
            weight.grid = replace(grid, pair_limit=None)
            weight.set_bounds(weight.observed or bounds)
        yield
    finally:
        for weight, grid, bounds in before:
            weight.grid = grid
            weight.set_bounds(bounds)
