"""Costs of a network at one image size: multiplications, bytes and memory, in float and under any plan of bits."""

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from torch import fx

from srptq_plugin.costs.memory import FLOAT, Memory, packed_bytes
from srptq_plugin.costs.shapes import Shape, trace_shapes
from srptq_plugin.graph.network import Network, tensor_arguments
from srptq_plugin.graph.rules import Rules
from srptq_plugin.graph.stages import Stage, Stages
from srptq_plugin.graph.types import Size
from srptq_plugin.planning.plan import Edge, Plan, Site
from srptq_plugin.quantization.grid import IntGrid

MULTIPLYING = frozenset({"conv", "conv_transpose", "linear"})
"""Operations whose products count."""
SCALE_BITS = 32
"""Bits of a stored scale."""


@dataclass(frozen=True)
class Layer:
    """A convolution, transposed convolution or linear layer."""

    name: str
    stage: Stage
    macs: int
    """Multiplications, each with an addition."""
    weight: str
    """The name of the weight that it reads."""


@dataclass(frozen=True)
class LayerCost:
    """A layer on the grids of a plan. A grid of None is float."""

    layer: Layer
    weight: IntGrid | None
    activation: IntGrid | None

    @property
    def bops(self) -> int:
        """BitOPs: multiplications, each weighted by weight bits times activation bits."""
        return self.layer.macs * bits_of(self.weight) * bits_of(self.activation)

    def record(self) -> dict[str, Any]:
        """Return an object for JSON."""
        bits = {"weight_bits": bits_of(self.weight), "activation_bits": bits_of(self.activation)}
        return asdict(self.layer) | bits | {"bops": self.bops}


@dataclass(frozen=True)
class ParameterCost:
    """A parameter, and the bits that store each of its elements."""

    name: str
    elements: int
    bits: int

    @property
    def bytes(self) -> int:
        """The size in memory, with elements packed without gaps.

        >>> ParameterCost("body.0.weight", 7, 4).bytes
        4
        """
        return packed_bytes(self.elements, self.bits)

    def record(self) -> dict[str, Any]:
        """Return an object for JSON."""
        return asdict(self) | {"bytes": self.bytes}


@dataclass(frozen=True)
class SiteCost:
    """The share of a site: the BitOPs of the layers that read it, and the bytes of its tensor."""

    bops: int
    bytes: int


@dataclass(frozen=True)
class Costs:
    """The costs of a network at one image size. Its methods take any plan, or None for the float network.

    `rules` name the operations that a target fuses. Without rules, every operation stores its output.

    >>> from torch import nn
    >>> from srptq_plugin.graph.export import export_network, graph_of
    >>> network = Network(graph_of(export_network(nn.Conv2d(3, 8, 3, padding=1))))
    >>> costs = Costs.of(network, (1, 3, 100, 200))
    >>> costs.macs, costs.bops(), costs.size(), costs.memory.peak()
    (4320000, 4423680000, 896, Moment(operation='/conv', bytes=880000))
    """

    input_size: Size
    layers: tuple[Layer, ...]
    shapes: Mapping[str, tuple[int, ...]]
    """The shapes of parameters and feature maps, by name."""
    parameters: tuple[str, ...]
    """The names of the parameters that the network reads."""
    skips: Mapping[str, tuple[Edge, ...]]
    """The adds of the body, and the edges of their stored inputs. A fused input is never stored."""
    memory: Memory
    rules: Rules | None = None

    @classmethod
    def of(cls, network: Network, size: Size, rules: Rules | None = None) -> "Costs":
        """Trace an exported network. Raise `SrptqError` if it does not run at the image size."""
        shapes = trace_shapes(network, size)
        read = {str(node.target): node for node in shapes if node.op == "get_attr" and node.users}
        named = {**read, **{network.name(node): node for node in network.ops}}
        stages, memory = Stages(network), Memory(network, shapes, rules)
        return cls(
            size,
            tuple(_layers(network, shapes, stages)),
            {name: shapes[node].sides for name, node in named.items() if node in shapes},
            tuple(read),
            dict(_skips(network, stages, memory)),
            memory,
            rules,
        )

    @cached_property
    def macs(self) -> int:
        """Multiplications of all layers, each with an addition."""
        return sum(layer.macs for layer in self.layers)

    def elements(self, name: str) -> int:
        """Return the number of elements of a parameter or a feature map."""
        return math.prod(self.shapes[name])

    def layer_costs(self, plan: Plan | None = None) -> tuple[LayerCost, ...]:
        """Return the cost of every layer, in the order of execution."""
        sites = plan.by_edge if plan else {}
        # Input 0 of a layer is its feature map, input 1 its weight.
        return tuple(
            LayerCost(layer, _grid(sites.get(Edge(layer.name, 1))), _grid(sites.get(Edge(layer.name, 0))))
            for layer in self.layers
        )

    def parameter_costs(self, plan: Plan | None = None) -> tuple[ParameterCost, ...]:
        """Return the cost of every parameter that the network reads, biases included."""
        bits = {site.source: site.grid.bits for site in (plan.weights if plan else ())}
        return tuple(ParameterCost(name, self.elements(name), bits.get(name, FLOAT)) for name in self.parameters)

    def site_costs(self, plan: Plan) -> Mapping[str, SiteCost]:
        """Return the costs by site. Each layer counts twice, for its weight's site and for its input's."""
        bops: dict[str, int] = defaultdict(int)
        for layer_cost in self.layer_costs(plan):
            for index in (0, 1):
                site = plan.by_edge.get(Edge(layer_cost.layer.name, index))
                if site is not None:
                    bops[site.name] += layer_cost.bops
        return {
            site.name: SiteCost(bops[site.name], packed_bytes(self.elements(site.source), site.grid.bits))
            for site in plan.sites
        }

    def bops(self, plan: Plan | None = None) -> int:
        """Return the BitOPs of all layers: each product counts weight bits times activation bits, 32 for float."""
        return sum(layer_cost.bops for layer_cost in self.layer_costs(plan))

    def size(self, plan: Plan | None = None) -> int:
        """Return the bytes of the model: packed parameters, and the scales and zero points of all sites."""
        parameters = sum(parameter.bytes for parameter in self.parameter_costs(plan))
        # The sites of a group share one encoding, so it is stored once.
        return parameters + (sum(self._encoding_bytes(sites[0]) for sites in plan.groups.values()) if plan else 0)

    def _encoding_bytes(self, site: Site) -> int:
        """Return the bytes of a site's scales and zero points. A symmetric grid stores no zero point."""
        grid = site.grid
        channels = 1 if grid.channel_axis is None else self.shapes[site.source][grid.channel_axis]
        zero_point = 0 if grid.symmetric else FLOAT if grid.float_zero_point else grid.bits
        return channels * (packed_bytes(1, SCALE_BITS) + packed_bytes(1, zero_point))


def bits_of(grid: IntGrid | None) -> int:
    """Return the bits of a grid, or 32 for float.

    >>> bits_of(IntGrid(4)), bits_of(None)
    (4, 32)
    """
    return FLOAT if grid is None else grid.bits


def _grid(site: Site | None) -> IntGrid | None:
    return None if site is None else site.grid


def _layers(network: Network, shapes: Mapping[fx.Node, Shape], stages: Stages) -> Iterator[Layer]:
    for node, op in network.ops.items():
        if op in MULTIPLYING and node in network.varying:
            source, weight = tensor_arguments(node)[:2]
            # Each output element of a convolution takes (weight elements / output channels) products. A transposed one
            # takes (weight elements / input channels) for each input element. In both, the first axis of the weight is
            # the channel axis of the counted map, so groups need no special case.
            counted = source if op == "conv_transpose" else node
            kernel = shapes[weight].elements // shapes[weight].sides[0]
            yield Layer(network.name(node), stages.of(node), shapes[counted].elements * kernel, _name(weight))


def _name(weight: fx.Node) -> str:
    return str(weight.target) if weight.op == "get_attr" else weight.name


def _skips(network: Network, stages: Stages, memory: Memory) -> Iterator[tuple[str, tuple[Edge, ...]]]:
    for node, op in network.ops.items():
        sources = network.edges_in(node)
        if op == "add" and len(sources) > 1 and stages.of(node) == "body":
            name = network.name(node)
            yield name, tuple(Edge(name, index) for index, source in sources if source not in memory.fused)
