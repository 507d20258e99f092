"""Which operations a target computes together: what passes between them is never rounded, and never stored."""

from collections.abc import Collection

from torch import fx

from srptq_plugin.graph.network import Network
from srptq_plugin.graph.rules import Rules


class Fusing:
    """What a target's rules say of one network; `planned` are the convolutions that it computes in integers."""

    def __init__(self, network: Network, rules: Rules, planned: Collection[fx.Node]) -> None:
        self.network, self.rules, self.planned = network, rules, planned

    def last(self, node: fx.Node) -> fx.Node:
        """The tensor that leaves an operation and those that are computed with it."""
        users = [user for user, _ in self.network.edges_out(node)]
        if len(users) == 1 and self._is_fused(users[0], node):
            return self.last(users[0])
        return node

    def branch(self, node: fx.Node) -> fx.Node | None:
        """What an add reads from the convolution that it is computed with."""
        if not self.rules.joins_in_conv or self.network.ops[node] != "add":
            return None
        sources = (source for _, source in self.network.edges_in(node))
        return next(filter(self._leaves_conv, sources), None)

    def _leaves_conv(self, node: fx.Node) -> bool:
        """Whether a tensor of one reader is a convolution's, also scaled by a constant or after an add joined to it."""
        sources = [source for _, source in self.network.edges_in(node)]
        scaled = self.network.ops[node] == "mul" and len(sources) == 1 and self._leaves_conv(sources[0])
        return len(node.users) == 1 and (node in self.planned or scaled or self.branch(node) is not None)

    def _is_fused(self, node: fx.Node, before: fx.Node) -> bool:
        in_conv = before in self.planned and self.network.ops[node] in self.rules.fused_in_conv
        return in_conv or self.network.ops[node] in self.rules.fused
