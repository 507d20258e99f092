"""A network of which any part is quantized and the rest float.

Switching a part recomputes only the nodes that the change can reach.
"""

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
"""Groups of sites that share an encoding, which are switched together."""


class PartlyQuantized(fx.Interpreter):
    """The simulation of a table, with each group on or off. A convolution's tuned bias is switched with its weight."""

    def __init__(self, table: QuantTable, network: fx.GraphModule) -> None:
        simulated = table.simulate(network)
        super().__init__(simulated.capture)
        self.groups: Groups = frozenset(table.plan.groups)
        self._on: Groups = frozenset()
        self._group_of = _quantizer_groups(simulated.capture)
        self._floats = _float_parameters(table.plan, simulated.capture, network)
        self._group_of |= {node: group for node, (group, _) in self._floats.items()}
        self._reached = _reached(simulated.capture.graph, self._group_of)

    def run_node(self, n: fx.Node) -> Any:
        """Run a node. A switched-off quantizer returns its input, and a changed parameter its float value."""
        group = self._group_of.get(n)
        if group is None or group in self._on:
            return super().run_node(n)
        return self._floats[n][1] if n in self._floats else self.env[n.all_input_nodes[0]]

    def trace(self, images: Tensor, on: Groups) -> "Trace":
        """Run with some groups quantized, and record the value of every node."""
        values: Values = {}
        self._on = on
        self.garbage_collect_values = False  # the trace holds the values
        with torch.no_grad():
            output = self.run(images, initial_env=values)
        return Trace(self, images, on, values, output[0])

    def recompute(self, trace: "Trace", groups: Iterable[str]) -> Tensor:
        """Return the output after switching these groups. Take what they cannot reach from the trace."""
        switched = frozenset(groups)
        reached = frozenset().union(*(self._reached[group] for group in switched))
        # the interpreter skips nodes that have a value, and the output node has to run in any case
        values = {node: value for node, value in trace.values.items() if node not in reached and node.op != "output"}
        self._on = trace.on ^ switched
        self.garbage_collect_values = True
        with torch.no_grad():
            return self.run(trace.images, initial_env=values)[0]


@dataclass(frozen=True)
class Trace:
    """The values of all nodes in a run with the groups `on` quantized."""

    network: PartlyQuantized
    images: Tensor
    on: Groups
    values: Mapping[fx.Node, Any]
    output: Tensor

    def switched(self, groups: Iterable[str]) -> Tensor:
        """Return the output after switching these groups, on to off and off to on."""
        return self.network.recompute(self, groups)


def _quantizer_groups(module: fx.GraphModule) -> dict[fx.Node, str]:
    """Return the group of each node that calls a quantizer."""
    calls = ((node, module.get_submodule(str(node.target))) for node in module.graph.nodes if node.op == "call_module")
    return {node: layer.name for node, layer in calls if isinstance(layer, BoundedFakeQuantize)}


def _float_parameters(
    plan: Plan, simulated: fx.GraphModule, network: fx.GraphModule
) -> dict[fx.Node, tuple[str, Tensor]]:
    """Return the group and the float value of each node of a weight or bias that simulating changed."""
    parameters: dict[fx.Node, tuple[str, Tensor]] = {}
    nodes, plain = Network(simulated).nodes, Network(network)
    for site in plan.weights:
        for edge in site.consumers:
            conv = nodes[edge.consumer]
            weight = network.get_parameter(site.source).detach()
            parameters[_argument(conv, edge.input_index)] = site.group, weight
            bias = plain.parameter(plain.nodes[edge.consumer], 2)
            if bias:
                parameters[_argument(conv, 2)] = site.group, bias[1]
    return parameters


def _argument(conv: fx.Node, index: int) -> fx.Node:
    node = conv.args[index]
    if not isinstance(node, fx.Node):
        raise TypeError(f"{conv.name}: argument {index} is no tensor")
    return node


def _reached(graph: fx.Graph, group_of: Mapping[fx.Node, str]) -> dict[str, frozenset[fx.Node]]:
    """Return the nodes that switching each group can change, the switched nodes included."""
    sources: dict[fx.Node, set[str]] = defaultdict(set)
    reached: dict[str, set[fx.Node]] = defaultdict(set)
    # nodes are in topological order, so the inputs of a node are complete before it
    for node in graph.nodes:
        own = {group_of[node]} if node in group_of else set[str]()
        sources[node] = own.union(*(sources[source] for source in node.all_input_nodes))
        for group in sources[node]:
            reached[group].add(node)
    return {group: frozenset(nodes) for group, nodes in reached.items()}
