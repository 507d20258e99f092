"""How much memory the feature maps of a network take at once, by who reads them last."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import fx

from srptq_plugin.costs.shapes import Shape
from srptq_plugin.graph.fusion import FusionMatcher
from srptq_plugin.graph.network import MOVEMENT, OUTPUT, Network
from srptq_plugin.graph.rules import Rules
from srptq_plugin.planning.plan import Edge, Plan

FLOAT = 32
Format = tuple[str, int]
"""A group of sites and its bits."""
REAL: Format = ("", FLOAT)


@dataclass(frozen=True)
class Moment:
    """What is in memory while an operation runs: what it reads, what it gives, and what others read later."""

    operation: str
    bytes: int


@dataclass(frozen=True)
class _Reading:
    """A tensor, or a view of it, that an operation reads in a format."""

    view: fx.Node
    format: Format
    step: int


class Memory:
    """The feature maps of a network at one image size, each from the operation that makes it to its last reader.

    A map is stored once for each encoding that it is read in, at that encoding's bits, and at 32 bits for who reads it
    as it is. Views take nothing of their own, of parameters too; a pixel shuffle is a copy, in the encoding in which it
    is read. What a target computes together stores nothing in between.
    """

    def __init__(self, network: Network, shapes: Mapping[fx.Node, Shape], rules: Rules | None = None) -> None:
        self.network, self.shapes = network, shapes
        self.place = {node: number for number, node in enumerate(network.ops)}
        self.views: dict[fx.Node, list[fx.Node]] = defaultdict(list)
        for node in network.ops:
            if node in network.varying and node in shapes and shapes[node].root in network.varying:
                self.views[shapes[node].root].append(node)
        self.inside = _inside(network, rules) if rules else {}

    def timeline(self, plan: Plan | None = None) -> tuple[Moment, ...]:
        """Every operation in the order of execution."""
        stored = _Stored(self, plan)
        changes: dict[int, int] = defaultdict(int)
        for root in self.views:
            for size, born, last in stored.copies(root):
                changes[born] += size
                changes[last + 1] -= size
        total, moments = 0, list[Moment]()
        for node, number in self.place.items():
            total += changes[number]
            if stored.step(node) == number:
                moments.append(Moment(self.network.name(node), total))
        return tuple(moments)

    def peak(self, plan: Plan | None = None) -> Moment:
        """The first moment at which most is in memory."""
        return max(self.timeline(plan), key=lambda moment: moment.bytes)


class _Stored:
    """What a plan, or none, makes of the maps."""

    def __init__(self, maps: Memory, plan: Plan | None) -> None:
        self._maps, self._network, self._shapes = maps, maps.network, maps.shapes
        self._sites = plan.by_edge if plan else {}
        sited = {site.source for site in self._sites.values()}
        self._inside = {node: user for node, user in maps.inside.items() if maps.network.name(node) not in sited}
        self._known: dict[fx.Node, list[_Reading]] = {}

    def step(self, node: fx.Node) -> int:
        """When an operation runs: with the last of those that are computed together."""
        while node in self._inside:
            node = self._inside[node]
        return self._maps.place[node]

    def copies(self, root: fx.Node) -> Iterator[tuple[int, int, int]]:
        """Bytes, first and last step of each copy of a tensor."""
        if root in self._inside:
            return
        readings = self._readings(root)
        for wanted in {reading.format for reading in readings} or {REAL}:
            alike = [reading for reading in readings if reading.format == wanted]
            last = max((reading.step for reading in alike), default=self.step(root))
            yield self._bytes(root, alike, wanted), self.step(root), last

    def _bytes(self, root: fx.Node, readings: list[_Reading], wanted: Format) -> int:
        """What is read, at most the whole."""
        whole = self._shapes[root].elements
        read = sum(self._shapes[view].elements for view in {reading.view for reading in readings})
        return packed(min(whole, read) if readings else whole, wanted[1])

    def _readings(self, root: fx.Node) -> list[_Reading]:
        if root not in self._known:
            self._known[root] = [reading for view in self._maps.views[root] for reading in self._of_view(view)]
        return self._known[root]

    def _of_view(self, view: fx.Node) -> Iterator[_Reading]:
        for user, place in self._network.edges_out(view):
            site = self._sites.get(Edge(self._network.name(user), place))
            if site is not None:
                yield _Reading(view, (site.group, site.grid.bits), self.step(user))
            elif not self._is_view(user, view):
                yield from (_Reading(view, wanted, self.step(user)) for wanted in self._wanted(user))

    def _is_view(self, user: fx.Node, of: fx.Node) -> bool:
        """Whether a reader only looks at the same memory, or at parts of it."""
        if user not in self._shapes:
            return self._network.ops[user] != OUTPUT
        return self._shapes[user].root is self._shapes[of].root

    def _wanted(self, user: fx.Node) -> set[Format]:
        """What moves values reads them in the formats in which its own are read."""
        if self._network.ops[user] not in MOVEMENT:
            return {REAL}
        return {reading.format for reading in self._readings(user)} or {REAL}


def packed(elements: int, bits: int) -> int:
    """Bytes, the bits of one number after those of another.

    >>> packed(3, 4)
    2
    """
    return -(-elements * bits // 8)


def _inside(network: Network, rules: Rules) -> dict[fx.Node, fx.Node]:
    """The tensors that never leave what is computed together, each with the operation that reads it."""
    fusions = FusionMatcher(network, rules.fusions, frozenset(network.convs))
    readers = ((node, fusions.fused_reader(node)) for node in network.ops if node is not network.input)
    return {node: reader for node, reader in readers if reader is not None}
