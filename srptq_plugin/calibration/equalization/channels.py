"""Classes of channels that can only be scaled together, derived from the dataflow."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import fx

from srptq_plugin.graph.network import IMAGE_AXES, Network, is_pooled
from srptq_plugin.graph.operation_names import canonical_op

Ids = NDArray[np.intp]
"""A number for each channel of a feature map."""
Links = list[tuple[Ids, Ids]]
"""Pairs of channels that need the same factor."""
FIXED = 0
"""The class of the channels that cannot be scaled."""


class Channels:
    """The classes of all channels. Channels of one class need the same factor, and class `FIXED` cannot be scaled.

    A convolution separates classes: its weight takes the factor of each input off, and puts the factor of each output
    on. A positive factor passes a homogeneous operation, and a square squares it. Both sides of a sum need the same
    factor. Every other reader fixes the channels of a map.
    """

    def __init__(self, network: Network) -> None:
        self._network = network
        self._ids: dict[fx.Node, Ids] = {}
        self._powers: dict[fx.Node, float] = {}
        self._readers: dict[str, tuple[Ids, Ids]] = {}
        self._total = FIXED + 1
        links = [pair for node in network.ops if node in network.varying for pair in self._links(node)]
        # Every channel is a vertex and every link an edge: the classes are the connected components. Vertex FIXED
        # comes first, so that its component has number FIXED.
        left, right = (np.concatenate(side) for side in zip(*links, strict=True))
        edges = coo_array((np.ones(len(left)), (left, right)), shape=(self._total, self._total))
        self.count, self._classes = connected_components(edges, directed=False)

    def of(self, node: fx.Node) -> Ids:
        """Return the class of each channel of a feature map."""
        return self._classes[self._ids[node]]

    def power(self, node: fx.Node) -> float:
        """Return the power to which a feature map has the factors of its classes: 2 behind a square."""
        return self._powers[node]

    def _links(self, node: fx.Node) -> Links:
        """Assign numbers to the channels of a node's output, and return their links to the inputs."""
        op = self._network.ops[node]
        sources = [source for _, source in self._network.edges_in(node)]
        gates = [source for source in sources if _is_gate(source)] if op in PRODUCTS and len(sources) > 1 else []
        powers = {self._powers[source] for source in sources if source not in gates} or {1.0}
        self._powers[node] = exponent_of(node) * min(powers)
        read = [self._ids[source] for source in sources]
        size = _count_unshuffled(node, read[0]) if op == "pixel_unshuffle" else count_channels(node)
        own = self._ids[node] = np.arange(self._total, self._total + size)
        self._total += size
        if op == "conv" and powers == {1.0}:
            return self._conv_links(node, own, read)
        rule = RULES.get(op) if len(powers) == 1 else None
        links = rule(node, own, sources, read) if rule and read else None
        # A rule that pairs unequal numbers of channels met something that is no feature map, or a broadcast.
        whole = links is not None and all(len(left) == len(right) for left, right in links)
        return links if links is not None and whole else _fixed(own, *read)

    def _conv_links(self, conv: fx.Node, own: Ids, read: Sequence[Ids]) -> Links:
        """Link the channels of convolutions that share a weight. A convolution of its own weight links nothing."""
        weight = self._network.parameter(conv, 1)
        if weight is None or self._network.is_mean_shift(conv):
            return _fixed(own, *read)
        first = self._readers.setdefault(weight[0], (own, read[0]))
        return [(own, first[0]), (read[0], first[1])]


def count_channels(node: fx.Node) -> int:
    """Return the number of channels of a feature map, or of all parts of a split. 1 for any other tensor."""
    value = node.meta.get("val")
    parts = value if isinstance(value, (tuple, list)) else [value]
    shapes = [getattr(part, "shape", ()) for part in parts]
    # With channels last, the second axis is a height, which differs from image to image.
    return sum(shape[1] if len(shape) == IMAGE_AXES and isinstance(shape[1], int) else 1 for shape in shapes)


def _count_unshuffled(node: fx.Node, read: Ids) -> int:
    # Of an image of any size, the traced shape gives the channels as a formula of the sides.
    factor: Any = node.args[1]
    return len(read) * factor**2


def exponent_of(node: fx.Node) -> float:
    """Return the power that an operation raises its input to, and 1 for others."""
    op = canonical_op(str(node.target))
    # A square has no argument that says so.
    exponent: Any = (*node.args[1:2], 2.0)[0] if op == "pow" else 0.5 if op == "sqrt" else 1.0
    return float(exponent) if isinstance(exponent, (int, float)) else 1.0


def _fixed(*ids: Ids) -> Links:
    return [(channels, np.full_like(channels, FIXED)) for channels in ids]


def _through(_node: fx.Node, own: Ids, _sources: Sequence[fx.Node], read: Sequence[Ids]) -> Links | None:
    return [(own, read[0])] if len(read) == 1 else None


def _sum(node: fx.Node, own: Ids, _sources: Sequence[fx.Node], read: Sequence[Ids]) -> Links | None:
    both = len(read) == len(node.args) == 2  # noqa: PLR2004 - two maps, and no constant
    return [(own, channels) for channels in read] if both else None


def _product(node: fx.Node, own: Ids, sources: Sequence[fx.Node], read: Sequence[Ids]) -> Links | None:
    """Link a product by a positive number, or by a gate: 1 x 1 maps, or a sigmoid. The gate itself is fixed."""
    if len(read) == 1:
        return [(own, read[0])] if _is_positive(node.args[1]) else None
    gates = [channels for channels, source in zip(read, sources, strict=True) if _is_gate(source)]
    maps = [channels for channels, source in zip(read, sources, strict=True) if not _is_gate(source)]
    return [(own, maps[0]), *_fixed(gates[0])] if len(gates) == len(maps) == 1 else None


def _is_positive(factor: Any) -> bool:
    """Tell whether a factor is a positive number, or a product of sizes."""
    if isinstance(factor, fx.Node):
        size = factor.meta.get("val")
        return isinstance(size, torch.SymInt) and bool(size.node.expr.is_positive)
    return isinstance(factor, (int, float)) and factor > 0


def _raised(node: fx.Node, own: Ids, sources: Sequence[fx.Node], read: Sequence[Ids]) -> Links | None:
    return _through(node, own, sources, read) if exponent_of(node) > 0 else None


def _is_gate(source: fx.Node) -> bool:
    return is_pooled(source) or canonical_op(str(source.target)) == "sigmoid"


def _concat(node: fx.Node, own: Ids, _sources: Sequence[fx.Node], read: Sequence[Ids]) -> Links | None:
    return [(own, np.concatenate(read))] if node.args[1:] == (1,) else None


def _split(node: fx.Node, own: Ids, _sources: Sequence[fx.Node], read: Sequence[Ids]) -> Links | None:
    return [(own, read[0])] if node.args[2:] == (1,) else None


def _part(node: fx.Node, own: Ids, sources: Sequence[fx.Node], read: Sequence[Ids]) -> Links | None:
    index: Any = node.args[1]
    before = sum(int(part.shape[1]) for part in sources[0].meta["val"][:index])
    return [(own, read[0][before : before + len(own)])]


def _shuffle(node: fx.Node, own: Ids, _sources: Sequence[fx.Node], read: Sequence[Ids]) -> Links | None:
    # Output channel c takes its r^2 pixels from input channels c r^2 ... c r^2 + r^2 - 1.
    factor: Any = node.args[1]
    return [(own, read[0][offset :: factor**2]) for offset in range(factor**2)]


Rule = Callable[[fx.Node, Ids, Sequence[fx.Node], Sequence[Ids]], Links | None]
# f(s x) = s f(x) for s > 0, channel by channel.
HOMOGENEOUS = ("relu", "leaky_relu", "prelu", "nearest", "interpolate", "max_pool", "mean", "sum")
PRODUCTS = ("mul", "div")
# f(s x) = s^exponent f(x)
POWERS = ("pow", "sqrt")
RULES: Mapping[str, Rule] = {
    **dict.fromkeys(HOMOGENEOUS, _through),
    **dict.fromkeys(POWERS, _raised),
    "add": _sum,
    "sub": _sum,
    **dict.fromkeys(PRODUCTS, _product),
    "cat": _concat,
    "split": _split,
    "getitem": _part,
    "pixel_shuffle": _shuffle,
}
"""The links that each operation makes. An operation without a rule fixes all channels that it reads and writes."""
