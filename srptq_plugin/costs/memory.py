"""Memory that the feature maps of a network take at once, each from the operation that makes it to its last reader."""

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
"""Bits of a float."""
Format = tuple[str, int]
"""The encoding of a stored copy: the group of sites that share it, and its bits."""
FLOAT_FORMAT: Format = ("", FLOAT)


@dataclass(frozen=True)
class Moment:
    """The bytes in memory while an operation runs: its inputs, its output, and maps that later operations read."""

    operation: str
    bytes: int


@dataclass(frozen=True)
class _Reading:
    """One use of a tensor or of a view of it: the format, and the step that reads it."""

    view: fx.Node
    format: Format
    step: int


class Memory:
    """The feature maps of a network at one image size, and their lifetimes.

    A map is stored once for each encoding in which it is read, and once at 32 bits for float readers. Views take no
    memory of their own, views of parameters included. A pixel shuffle is a copy, in the encoding of its readers. Maps
    between fused operations are not stored.
    """

    def __init__(self, network: Network, shapes: Mapping[fx.Node, Shape], rules: Rules | None = None) -> None:
        self.network, self.shapes = network, shapes
        self.step = {node: step for step, node in enumerate(network.ops)}
        self.views: dict[fx.Node, list[fx.Node]] = defaultdict(list)
        for node in network.ops:
            if node in network.varying and node in shapes and shapes[node].root in network.varying:
                self.views[shapes[node].root].append(node)
        self.fused = _find_fused(network, rules) if rules else {}

    def timeline(self, plan: Plan | None = None) -> tuple[Moment, ...]:
        """Return the memory at every operation, in the order of execution."""
        stored = _Stored(self, plan)
        # Differences per step: one pass adds up the copies that live, instead of a search at every step.
        changes: dict[int, int] = defaultdict(int)
        for root in self.views:
            for size, born, last in stored.copies(root):
                changes[born] += size
                changes[last + 1] -= size
        total, moments = 0, list[Moment]()
        for node, step in self.step.items():
            total += changes[step]
            # A fused operation runs at the step of the operation that it is fused into, which has the moment.
            if stored.step(node) == step:
                moments.append(Moment(self.network.name(node), total))
        return tuple(moments)

    def peak(self, plan: Plan | None = None) -> Moment:
        """Return the first moment with the most bytes in memory."""
        return max(self.timeline(plan), key=lambda moment: moment.bytes)


class _Stored:
    """The copies of the maps that are stored under a plan, or in float without one."""

    def __init__(self, maps: Memory, plan: Plan | None) -> None:
        self._maps, self._network, self._shapes = maps, maps.network, maps.shapes
        self._sites = plan.by_edge if plan else {}
        # A site quantizes a tensor that is stored, so a plan overrules the fusion of its source.
        sources = {site.source for site in self._sites.values()}
        self._fused = {node: user for node, user in maps.fused.items() if maps.network.name(node) not in sources}
        self._cached: dict[fx.Node, list[_Reading]] = {}

    def step(self, node: fx.Node) -> int:
        """Return when an operation runs. Fused operations run at the step of the last of them."""
        while node in self._fused:
            node = self._fused[node]
        return self._maps.step[node]

    def copies(self, root: fx.Node) -> Iterator[tuple[int, int, int]]:
        """Yield the bytes, the first step and the last step of each stored copy of a tensor."""
        if root in self._fused:
            return
        readings = self._readings(root)
        for stored in {reading.format for reading in readings} or {FLOAT_FORMAT}:
            readers = [reading for reading in readings if reading.format == stored]
            last = max((reading.step for reading in readers), default=self.step(root))
            yield self._bytes(root, readers, stored), self.step(root), last

    def _bytes(self, root: fx.Node, readings: list[_Reading], stored: Format) -> int:
        # Only the views that are read are stored, and overlapping views never take more than the whole tensor.
        whole = self._shapes[root].elements
        read = sum(self._shapes[view].elements for view in {reading.view for reading in readings})
        return packed_bytes(min(whole, read) if readings else whole, stored[1])

    def _readings(self, root: fx.Node) -> list[_Reading]:
        if root not in self._cached:
            self._cached[root] = [reading for view in self._maps.views[root] for reading in self._view_readings(view)]
        return self._cached[root]

    def _view_readings(self, view: fx.Node) -> Iterator[_Reading]:
        for user, index in self._network.edges_out(view):
            site = self._sites.get(Edge(self._network.name(user), index))
            if site is not None:
                yield _Reading(view, (site.group, site.grid.bits), self.step(user))
            elif not self._is_view(user, view):
                yield from (_Reading(view, read, self.step(user)) for read in self._formats_read(user))

    def _is_view(self, user: fx.Node, of: fx.Node) -> bool:
        """Return whether a reader's result is the same memory, or parts of it."""
        if user not in self._shapes:
            # A split has no shape of its own, as it returns a list of views.
            return self._network.ops[user] != OUTPUT
        return self._shapes[user].root is self._shapes[of].root

    def _formats_read(self, user: fx.Node) -> set[Format]:
        """Return the formats in which an operation without a site reads its input."""
        if self._network.ops[user] not in MOVEMENT:
            return {FLOAT_FORMAT}
        # Movement computes nothing, so it moves integers in the encodings in which its own readers need them.
        return {reading.format for reading in self._readings(user)} or {FLOAT_FORMAT}


def packed_bytes(elements: int, bits: int) -> int:
    """Return the bytes of elements that are packed without gaps.

    >>> packed_bytes(3, 4)
    2
    """
    return -(-elements * bits // 8)


def _find_fused(network: Network, rules: Rules) -> dict[fx.Node, fx.Node]:
    """Return the tensors inside fused operations, each with the operation that reads it."""
    fusions = FusionMatcher(network, rules.fusions, frozenset(network.convs))
    readers = ((node, fusions.fused_reader(node)) for node in network.ops if node is not network.input)
    return {node: reader for node, reader in readers if reader is not None}
