"""Fusions: operations that one kernel of a target computes. Inside a kernel no tensor is rounded or stored."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from torch import fx

from srptq_plugin.graph.network import Network

ANY = "any"
"""Matches every operation."""
DEPTHWISE, SMALL, SCALE = "depthwise_conv", "small_conv", "scale"
SMALL_KERNEL = 7
"""The largest height and width of the kernel of a `small_conv`."""


@dataclass(frozen=True)
class Fusion:
    """An operation that a target computes in the kernel of an operation before it.

    Operations have the names that graph keys have, such as `conv`, `relu` or `cat`. Three names are narrower:
    `depthwise_conv`, `small_conv` for kernels up to 7 x 7, and `scale` for a `mul` by a constant. A convolution that
    the plan leaves float counts as `any` only.

    >>> print(Fusion("clamp", behind="conv"))
    clamp behind conv
    >>> print(Fusion("add", behind="conv", through=frozenset({"scale", "add"})))
    add behind conv, through add or scale
    """

    op: str
    """The operation that is fused. Of its inputs only one comes from inside the kernel."""
    behind: str = ANY
    """The operation that begins the kernel."""
    through: frozenset[str] = frozenset()
    """Operations that may lie between the two, in any order and number."""

    def __str__(self) -> str:
        path = f", through {' or '.join(sorted(self.through))}" if self.through else ""
        return f"{self.op} behind {self.behind}{path}"


class FusionMatcher:
    """Finds the fusions of a target in one network. `planned` are the convolutions that run in integers."""

    def __init__(self, network: Network, fusions: Sequence[Fusion], planned: Collection[fx.Node]) -> None:
        self.network, self.fusions, self.planned = network, fusions, planned

    def last(self, node: fx.Node) -> fx.Node:
        """Return the tensor that leaves the kernel that computes a node."""
        reader = self.fused_reader(node)
        return node if reader is None else self.last(reader)

    def fused_reader(self, node: fx.Node) -> fx.Node | None:
        """Return the operation that reads a tensor inside its kernel, or None if the tensor leaves the kernel."""
        reader = self._only_reader(node)
        if reader is None or not any(self._passes(fusion, node, reader) for fusion in self.fusions):
            return None
        return reader

    def is_fused(self, node: fx.Node) -> bool:
        """Tell whether a kernel that began with an earlier operation computes a node."""
        fusions = (fusion for fusion in self.fusions if self._matches(node, fusion.op))
        return any(self._operand(fusion, node) is not None for fusion in fusions)

    def _only_reader(self, node: fx.Node) -> fx.Node | None:
        # A kernel must store a tensor that a second operation reads.
        readers = {user for user, _ in self.network.edges_out(node)}
        return next(iter(readers)) if len(readers) == 1 else None

    def _passes(self, fusion: Fusion, node: fx.Node, reader: fx.Node) -> bool:
        """Tell whether the kernel hands a tensor to its reader: the fused operation, or one on the way to it."""
        if self._operand(fusion, reader) is not node:
            return False
        if self._matches(reader, fusion.op):
            return True
        after = self._only_reader(reader)
        return self._is_between(fusion, reader) and after is not None and self._passes(fusion, reader, after)

    def _operand(self, fusion: Fusion, node: fx.Node) -> fx.Node | None:
        """Return the input that a node gets from inside the kernel: the first, if several could be."""
        sources = (source for _, source in self.network.edges_in(node) if self._only_reader(source) is node)
        return next((source for source in sources if self._is_inside(fusion, source)), None)

    def _is_inside(self, fusion: Fusion, node: fx.Node) -> bool:
        begins = self._matches(node, fusion.behind)
        return begins or (self._is_between(fusion, node) and self._operand(fusion, node) is not None)

    def _is_between(self, fusion: Fusion, node: fx.Node) -> bool:
        return any(self._matches(node, op) for op in fusion.through)

    def _is_small(self, conv: fx.Node) -> bool:
        weight = self.network.parameter(conv, 1)
        return weight is not None and max(weight[1].shape[2:]) <= SMALL_KERNEL

    def _matches(self, node: fx.Node, op: str) -> bool:
        """Tell whether a node is the operation that a fusion names."""
        if op in ("conv", DEPTHWISE, SMALL):
            if node not in self.planned or self.network.ops[node] != "conv":
                return False
            is_narrow = self.network.is_depthwise(node) if op == DEPTHWISE else self._is_small(node)
            return op == "conv" or is_narrow
        if op == SCALE:
            return self.network.ops[node] == "mul" and len(self.network.edges_in(node)) == 1
        return op in (ANY, self.network.ops[node], self.network.kind(node))
