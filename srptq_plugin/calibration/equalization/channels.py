"""Which channels of which feature maps can only be scaled together, from the dataflow."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import fx

from srptq_plugin.graph.network import IMAGE_AXES, Network, is_pooled

Ids = NDArray[np.intp]
Alike = list[tuple[Ids, Ids]]
FIXED = 0


class Channels:
    """Classes of channels; those of class `FIXED` cannot be scaled.

    A convolution ends some classes and begins others: its weight takes a factor off and puts another on. What a
    positive factor passes through keeps it; a sum needs the same on both sides; whatever else reads a map fixes it.
    """

    def __init__(self, network: Network) -> None:
        self._network = network
        self._ids: dict[fx.Node, Ids] = {}
        self._readers: dict[str, tuple[Ids, Ids]] = {}
        self._total = FIXED + 1
        links = [pair for node in network.ops if node in network.varying for pair in self._links(node)]
        ones, others = (np.concatenate(side) for side in zip(*links, strict=True))
        table = coo_array((np.ones(len(ones)), (ones, others)), shape=(self._total, self._total))
        self.count, self._classes = connected_components(table, directed=False)

    def of(self, node: fx.Node) -> Ids:
        """The class of each channel of a feature map."""
        return self._classes[self._ids[node]]

    def _links(self, node: fx.Node) -> Alike:
        size = count_channels(node)
        own = self._ids[node] = np.arange(self._total, self._total + size)
        self._total += size
        sources = [source for _, source in self._network.edges_in(node)]
        read = [self._ids[source] for source in sources]
        if self._network.ops[node] == "conv":
            return self._of_conv(node, own, read)
        rule = RULES.get(self._network.ops[node])
        found = rule(node, own, sources, read) if rule and read else None
        whole = found is not None and all(len(one) == len(other) for one, other in found)
        return found if found is not None and whole else _fixed(own, *read)

    def _of_conv(self, conv: fx.Node, own: Ids, read: Sequence[Ids]) -> Alike:
        """Nothing, but for convolutions that share a weight."""
        weight = self._network.parameter(conv, 1)
        if weight is None or self._network.is_mean_shift(conv):
            return _fixed(own, *read)
        first = self._readers.setdefault(weight[0], (own, read[0]))
        return [(own, first[0]), (read[0], first[1])]


def count_channels(node: fx.Node) -> int:
    """How many channels a feature map has, all parts of a split one together; 1 for what is no map."""
    value = node.meta.get("val")
    parts = value if isinstance(value, (tuple, list)) else [value]
    shapes = [getattr(part, "shape", ()) for part in parts]
    return sum(int(shape[1]) if len(shape) == IMAGE_AXES else 1 for shape in shapes)


def _fixed(*ids: Ids) -> Alike:
    return [(each, np.full_like(each, FIXED)) for each in ids]


def _through(_node: fx.Node, own: Ids, _sources: Sequence[fx.Node], read: Sequence[Ids]) -> Alike | None:
    return [(own, read[0])] if len(read) == 1 else None


def _sum(node: fx.Node, own: Ids, _sources: Sequence[fx.Node], read: Sequence[Ids]) -> Alike | None:
    both = len(read) == len(node.args) == 2  # noqa: PLR2004 - two maps, and no constant
    return [(own, each) for each in read] if both else None


def _product(node: fx.Node, own: Ids, sources: Sequence[fx.Node], read: Sequence[Ids]) -> Alike | None:
    """By a positive number, or by a gate of 1 x 1 maps, which is left as it is."""
    if len(read) == 1:
        factor = node.args[1]
        return [(own, read[0])] if isinstance(factor, (int, float)) and factor > 0 else None
    gates = [each for each, source in zip(read, sources, strict=True) if is_pooled(source)]
    maps = [each for each, source in zip(read, sources, strict=True) if not is_pooled(source)]
    return [(own, maps[0]), *_fixed(gates[0])] if len(gates) == len(maps) == 1 else None


def _concat(node: fx.Node, own: Ids, _sources: Sequence[fx.Node], read: Sequence[Ids]) -> Alike | None:
    return [(own, np.concatenate(read))] if node.args[1:] == (1,) else None


def _split(node: fx.Node, own: Ids, _sources: Sequence[fx.Node], read: Sequence[Ids]) -> Alike | None:
    return [(own, read[0])] if node.args[2:] == (1,) else None


def _part(node: fx.Node, own: Ids, sources: Sequence[fx.Node], read: Sequence[Ids]) -> Alike | None:
    place: Any = node.args[1]
    before = sum(int(part.shape[1]) for part in sources[0].meta["val"][:place])
    return [(own, read[0][before : before + len(own)])]


def _shuffle(node: fx.Node, own: Ids, _sources: Sequence[fx.Node], read: Sequence[Ids]) -> Alike | None:
    factor: Any = node.args[1]
    return [(own, read[0][place :: factor**2]) for place in range(factor**2)]


Rule = Callable[[fx.Node, Ids, Sequence[fx.Node], Sequence[Ids]], Alike | None]
HOMOGENEOUS = ("relu", "leaky_relu", "prelu", "nearest", "interpolate", "max_pool", "mean")
RULES: Mapping[str, Rule] = {
    **dict.fromkeys(HOMOGENEOUS, _through),
    "add": _sum,
    "sub": _sum,
    "mul": _product,
    "div": _product,
    "cat": _concat,
    "split": _split,
    "getitem": _part,
    "pixel_shuffle": _shuffle,
}
"""What is alike by each operation; what has no rule fixes all that it touches."""
