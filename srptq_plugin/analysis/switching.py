"""A network of which any part is quantized and the rest float; only what a change can reach is computed again."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from srptq_plugin.deploy.quant_table import QuantTable
from srptq_plugin.graph.network import Network
from srptq_plugin.planning.plan import Plan
from srptq_plugin.quantization.quantizer import BoundedFakeQuantize

Values = dict[fx.Node, Any]
Groups = frozenset[str]
"""Sites are switched by the encodings that they share."""


class PartlyQuantized(fx.Interpreter):
    """The simulation of a table, its groups on or off; a convolution's tuned bias goes with its weight."""

    def __init__(self, table: QuantTable, network: fx.GraphModule) -> None:
        simulated = table.simulate(network)
        super().__init__(simulated.capture)
        self.groups: Groups = frozenset(table.plan.groups)
        self._on: Groups = frozenset()
        self._group_of = _quantizers(simulated.capture)
        self._floats = _float_parameters(table.plan, simulated.capture, network)
        self._group_of |= {node: group for node, (group, _) in self._floats.items()}
        self._reached = _reached(simulated.capture.graph, self._group_of)

    def run_node(self, n: fx.Node) -> Any:
        """A switched-off quantizer gives what it was given, or the float network's parameter."""
        group = self._group_of.get(n)
        if group is None or group in self._on:
            return super().run_node(n)
        return self._floats[n][1] if n in self._floats else self.env[n.all_input_nodes[0]]

    def kept(self, images: Tensor, on: Groups) -> "Kept":
        """Run with some groups quantized, and keep every value."""
        values: Values = {}
        self._on = on
        self.garbage_collect_values = False
        with torch.no_grad():
            output = self.run(images, initial_env=values)
        return Kept(self, images, on, values, output[0])

    def recompute(self, kept: "Kept", groups: Iterable[str]) -> Tensor:
        """The output with these groups the other way round."""
        switched = frozenset(groups)
        reached = frozenset().union(*(self._reached[group] for group in switched))
        values = {node: value for node, value in kept.values.items() if node not in reached and node.op != "output"}
        self._on = kept.on ^ switched
        self.garbage_collect_values = True
        with torch.no_grad():
            return self.run(kept.images, initial_env=values)[0]


@dataclass(frozen=True)
class Kept:
    """What passed a network whose groups in `on` were quantized."""

    network: PartlyQuantized
    images: Tensor
    on: Groups
    values: Mapping[fx.Node, Any]
    output: Tensor

    def switched(self, groups: Iterable[str]) -> Tensor:
        """The output with these groups the other way round."""
        return self.network.recompute(self, groups)


def _quantizers(module: fx.GraphModule) -> dict[fx.Node, str]:
    """The calls of quantizers, by what they quantize."""
    calls = ((node, module.get_submodule(str(node.target))) for node in module.graph.nodes if node.op == "call_module")
    return {node: each.name for node, each in calls if isinstance(each, BoundedFakeQuantize)}


def _float_parameters(
    plan: Plan, simulated: fx.GraphModule, network: fx.GraphModule
) -> dict[fx.Node, tuple[str, Tensor]]:
    """The nodes of weights and biases that simulating changed: whose they are, and the float network's values."""
    found: dict[fx.Node, tuple[str, Tensor]] = {}
    nodes, plain = Network(simulated).nodes, Network(network)
    for site in plan.weights:
        for edge in site.consumers:
            conv = nodes[edge.consumer]
            found[_argument(conv, edge.input_index)] = site.group, network.get_parameter(site.source).detach()
            bias = plain.parameter(plain.nodes[edge.consumer], 2)
            if bias:
                found[_argument(conv, 2)] = site.group, bias[1]
    return found


def _argument(conv: fx.Node, place: int) -> fx.Node:
    node = conv.args[place]
    if not isinstance(node, fx.Node):
        raise TypeError(f"{conv.name} reads no tensor at place {place}")
    return node


def _reached(graph: fx.Graph, group_of: Mapping[fx.Node, str]) -> dict[str, frozenset[fx.Node]]:
    """By group, what its switching can change."""
    sources: dict[fx.Node, set[str]] = defaultdict(set)
    reached: dict[str, set[fx.Node]] = defaultdict(set)
    for node in graph.nodes:
        own = {group_of[node]} if node in group_of else set[str]()
        sources[node] = own.union(*(sources[each] for each in node.all_input_nodes))
        for group in sources[node]:
            reached[group].add(node)
    return {group: frozenset(nodes) for group, nodes in reached.items()}
