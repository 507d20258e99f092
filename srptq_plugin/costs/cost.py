"""What a network costs at an image size: arithmetic, bytes and memory, in float and by any plan of bits."""

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from torch import fx

from srptq_plugin.costs.memory import FLOAT, Memory, packed
from srptq_plugin.costs.shapes import Shape, shapes_of
from srptq_plugin.graph.network import Network, tensor_arguments
from srptq_plugin.graph.rules import Rules
from srptq_plugin.graph.stages import Stage, Stages
from srptq_plugin.graph.types import Size
from srptq_plugin.planning.plan import Edge, Plan, Site
from srptq_plugin.quantization.grid import IntGrid

MULTIPLYING = frozenset({"conv", "conv_transpose", "linear"})
SCALE_BITS = 32


@dataclass(frozen=True)
class Layer:
    """A convolution, transposed convolution or linear layer: its products, and the weight that it reads."""

    name: str
    stage: Stage
    macs: int
    weight: str


@dataclass(frozen=True)
class LayerCost:
    """A layer at the grids of a plan; none is float."""

    layer: Layer
    weight: IntGrid | None
    activation: IntGrid | None

    @property
    def bops(self) -> int:
        """Products, each as many operations on bits as the bits of one factor times those of the other."""
        return self.layer.macs * bits_of(self.weight) * bits_of(self.activation)

    def record(self) -> dict[str, Any]:
        """As one object for JSON."""
        bits = {"weight_bits": bits_of(self.weight), "activation_bits": bits_of(self.activation)}
        return asdict(self.layer) | bits | {"bops": self.bops}


@dataclass(frozen=True)
class ParameterCost:
    """A parameter, and the bits that each of its numbers is stored in."""

    name: str
    elements: int
    bits: int

    @property
    def bytes(self) -> int:
        """Packed.

        >>> ParameterCost("body.0.weight", 7, 4).bytes
        4
        """
        return packed(self.elements, self.bits)

    def record(self) -> dict[str, Any]:
        """As one object for JSON."""
        return asdict(self) | {"bytes": self.bytes}


@dataclass(frozen=True)
class SiteCost:
    """What a site has a part in: the BitOPs of the layers that read it, and the bytes of its tensor."""

    bops: int
    bytes: int


@dataclass(frozen=True)
class Costs:
    """Read from a network once at an image size; then asked for any plan, or for none: the float network.

    `rules` say what a target computes together; without any every operation stores what it gives.

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
    """Of parameters and feature maps, by their names."""
    parameters: tuple[str, ...]
    skips: Mapping[str, tuple[Edge, ...]]
    """The adds of the body, and who reads what they add; not what is computed with them."""
    memory: Memory
    rules: Rules | None = None

    @classmethod
    def of(cls, network: Network, size: Size, rules: Rules | None = None) -> "Costs":
        """Of an exported network; an image size at which it does not run is refused."""
        shapes = shapes_of(network, size)
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
        """Multiplications, each added to a sum."""
        return sum(layer.macs for layer in self.layers)

    def elements(self, name: str) -> int:
        """How many numbers a parameter or a feature map holds."""
        return math.prod(self.shapes[name])

    def of_layers(self, plan: Plan | None = None) -> tuple[LayerCost, ...]:
        """Every layer, in the order of execution."""
        sites = plan.by_edge if plan else {}
        return tuple(
            LayerCost(layer, *(_grid(sites.get(Edge(layer.name, place))) for place in (1, 0))) for layer in self.layers
        )

    def of_parameters(self, plan: Plan | None = None) -> tuple[ParameterCost, ...]:
        """Every parameter that the network reads, biases among them."""
        bits = {site.source: site.grid.bits for site in (plan.weights if plan else ())}
        return tuple(ParameterCost(name, self.elements(name), bits.get(name, FLOAT)) for name in self.parameters)

    def of_sites(self, plan: Plan) -> Mapping[str, SiteCost]:
        """By site; a layer counts for its weight and for what it reads."""
        bops: dict[str, int] = defaultdict(int)
        for found in self.of_layers(plan):
            for place in (0, 1):
                site = plan.by_edge.get(Edge(found.layer.name, place))
                if site is not None:
                    bops[site.name] += found.bops
        return {
            site.name: SiteCost(bops[site.name], packed(self.elements(site.source), site.grid.bits))
            for site in plan.sites
        }

    def bops(self, plan: Plan | None = None) -> int:
        """BitOPs: each product counts the bits of the weight times those of what the layer reads, 32 where float."""
        return sum(found.bops for found in self.of_layers(plan))

    def size(self, plan: Plan | None = None) -> int:
        """Bytes of the model: parameters at their bits, packed, and the scales and zero points of all sites."""
        parameters = sum(found.bytes for found in self.of_parameters(plan))
        return parameters + (sum(self._encoding(sites[0]) for sites in plan.groups.values()) if plan else 0)

    def _encoding(self, site: Site) -> int:
        """Bytes of a scale, and of a zero point where the grid has one, for each channel that has its own."""
        grid = site.grid
        places = 1 if grid.channel_axis is None else self.shapes[site.source][grid.channel_axis]
        zero_point = 0 if grid.symmetric else FLOAT if grid.float_zero_point else grid.bits
        return places * (packed(1, SCALE_BITS) + packed(1, zero_point))


def bits_of(grid: IntGrid | None) -> int:
    """A grid's bits; 32 for what stays float.

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
            spread = source if op == "conv_transpose" else node
            one = shapes[weight].elements // shapes[weight].sides[0]
            yield Layer(network.name(node), stages.of(node), shapes[spread].elements * one, _name(weight))


def _name(weight: fx.Node) -> str:
    return str(weight.target) if weight.op == "get_attr" else weight.name


def _skips(network: Network, stages: Stages, memory: Memory) -> Iterator[tuple[str, tuple[Edge, ...]]]:
    for node, op in network.ops.items():
        sources = network.edges_in(node)
        if op == "add" and len(sources) > 1 and stages.of(node) == "body":
            name = network.name(node)
            yield name, tuple(Edge(name, place) for place, source in sources if source not in memory.inside)
