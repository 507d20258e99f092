"""The values of a tensor beyond which saturating activations give the same."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import fx

from srptq_plugin.graph.network import MOVEMENT, Network

Limits = tuple[float | None, float | None]
"""The lower and the upper end. None at a side where every value matters."""

PARTS = 8
"""At its limits the output of an activation is a level, divided by this, from its end."""

_CLAMPS: Mapping[str, Mapping[str, float | None]] = {
    "clamp": {"min": None, "max": None},
    "clip": {"min": None, "max": None},
    "hardtanh": {"min_val": -1.0, "max_val": 1.0},
    "relu6": {"min_val": 0.0, "max_val": 6.0},
}
"""The names of both ends of activations that clamp, in the order of their arguments, with the defaults."""


def compute_limits(network: Network, edges: Iterable[tuple[fx.Node, int]], bits: int) -> Limits | None:
    """Return the values beyond which a tensor changes nothing, or None if there are none.

    Movement before the activations is looked through.

    Args:
        network: The network that the readers belong to.
        edges: The readers of the tensor, each with the index of the tensor among its tensor arguments.
        bits: The bits of the tensor's grid. As many are assumed of the outputs of its readers.
    """
    return join_limits([_limits_of(network, reader, index, bits) for reader, index in edges])


def join_limits(limits: Sequence[Limits | None]) -> Limits | None:
    """Return the outermost limits, or None if nothing is limited.

    >>> join_limits([(-1.0, 1.0), (0.0, None)]), join_limits([(-1.0, 1.0), None])
    ((-1.0, None), None)
    """
    lower = min((_open(-math.inf, ends and ends[0]) for ends in limits), default=-math.inf)
    upper = max((_open(math.inf, ends and ends[1]) for ends in limits), default=math.inf)
    joint = lower if math.isfinite(lower) else None, upper if math.isfinite(upper) else None
    return None if joint == (None, None) else joint


def _open(infinity: float, end: float | None) -> float:
    return infinity if end is None else end


def _limits_of(network: Network, reader: fx.Node, index: int, bits: int) -> Limits | None:
    op = network.ops[reader]
    if op in MOVEMENT:
        return compute_limits(network, network.edges_out(reader), bits)
    if index != 0:
        return None
    # 1 - sigmoid(x) = 1 / (PARTS * steps), and tanh(x) = 2 sigmoid(2x) - 1. Half a level would do for outputs that
    # fill their range. But many gates are never open, so their levels are finer.
    end = math.log(PARTS * (2**bits - 1) - 1)
    symmetric = {"sigmoid": end, "tanh": end / 2, "hardsigmoid": 3.0}
    if op in symmetric:
        return -symmetric[op], symmetric[op]
    return _clamped(network, reader, _CLAMPS[op]) if op in _CLAMPS else None


def _clamped(network: Network, clamp: fx.Node, defaults: Mapping[str, float | None]) -> Limits | None:
    """Return the ends of an activation that clamps, or None if they are tensors."""
    is_layer = clamp.op == "call_module"
    given: Mapping[str, Any] = vars(network.module.get_submodule(str(clamp.target))) if is_layer else clamp.kwargs
    ends: dict[str, Any] = {**defaults, **dict(zip(defaults, clamp.args[1:], strict=False)), **given}
    lower, upper = (ends[name] for name in defaults)
    if not all(end is None or isinstance(end, (int, float)) for end in (lower, upper)):
        return None
    return None if lower is None else float(lower), None if upper is None else float(upper)
