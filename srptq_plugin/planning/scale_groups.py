"""Groups of sites with one encoding: what moves values, joins them, or shares a scale on the target."""

from collections.abc import Iterator, Mapping
from dataclasses import replace

from torch import fx

from srptq_plugin.graph.network import MOVEMENT, Network
from srptq_plugin.graph.rules import Rules
from srptq_plugin.planning.plan import Site
from srptq_plugin.quantization.grid import IntGrid

GridTensor = tuple[fx.Node, IntGrid]
"""A tensor on one grid. Readers that want different bits make several of one node."""


def group_sites(network: Network, rules: Rules, sites: Mapping[GridTensor, Site]) -> list[Site]:
    """Return the sites with their groups, and note which of them repeat the rounding of another."""
    groups = _Groups(network, rules, sites)
    return [
        replace(site, group=groups.names[tensor], repeats=groups.repeats(*tensor)) for tensor, site in sites.items()
    ]


class _Groups:
    def __init__(self, network: Network, rules: Rules, sites: Mapping[GridTensor, Site]) -> None:
        self.network, self.rules, self.sites = network, rules, sites
        self.names = {tensor: site.name for tensor, site in sites.items()}
        for source, grid in sites:
            for origin in (*self._of_one_scale(source), *self._joined_only(source, grid)):
                if (origin, grid) in self.names:
                    old, new = self.names[source, grid], self.names[origin, grid]
                    self.names.update({tensor: new for tensor, name in self.names.items() if name == old})

    def repeats(self, node: fx.Node, grid: IntGrid) -> bool:
        """Tell whether another site rounds the values of a tensor: before they are moved, or behind a concat."""
        if self.network.ops[node] in MOVEMENT:
            return self._is_moved(node, grid)
        if self.network.ops[node] == "cat":
            return self._is_joined(node, grid)
        cats = (user for user, _ in self.network.edges_out(node) if (user, grid) in self.names)
        return any(node in self._joined_only(cat, grid) and not self._is_joined(cat, grid) for cat in cats)

    def _of_one_scale(self, node: fx.Node) -> Iterator[fx.Node]:
        """Yield the tensors before an operation that have the scale of its output."""
        op = self.network.ops[node]
        if op in self.rules.shared_scales:
            yield from (source for _, source in self.network.edges_in(node))
        if op in MOVEMENT:
            for _, source in self.network.edges_in(node):
                yield source
                yield from self._of_one_scale(source)

    def _joined_only(self, node: fx.Node, grid: IntGrid) -> Iterator[fx.Node]:
        """Yield the inputs of a concat that nothing else reads: they are rounded to its scale at once."""
        sources = [source for _, source in self.network.edges_in(node)]
        if self.network.ops[node] == "cat" and all((source, grid) in self.sites for source in sources):
            alone = (source for source in sources if {user for user, _ in self.network.edges_out(source)} == {node})
            yield from (source for source in alone if self._takes_any_scale(source))

    def _takes_any_scale(self, source: fx.Node) -> bool:
        is_clipped = self.rules.relu_by_range and self.network.is_nonnegative(source)
        return self.network.ops[source] not in MOVEMENT and not is_clipped

    def _is_moved(self, node: fx.Node, grid: IntGrid) -> bool:
        """Tell whether movement made a tensor from integers."""
        for _, source in self.network.edges_in(node):
            site = self.sites.get((source, grid))
            if site is not None and any(edge.consumer == self.network.name(node) for edge in site.consumers):
                return True
            if self.network.ops[source] in MOVEMENT and self._is_moved(source, grid):
                return True
        return False

    def _is_joined(self, cat: fx.Node, grid: IntGrid) -> bool:
        """Tell whether all inputs of a concat have the scale of its output."""
        name = self.names[cat, grid]
        return all(self.names.get((source, grid)) == name for _, source in self.network.edges_in(cat))
