"""What quantizes what, read back from a graph that a toolkit prepared."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import fx, nn

from srptq_plugin.graph.network import QUANTIZER, Network, tensor_arguments
from srptq_plugin.graph.stages import find_blocks
from srptq_plugin.planning.plan import Edge, Plan, Role, Site
from srptq_plugin.quantization.quantizer import BoundedFakeQuantize

INSIDE = "weight_fake_quant"
"""Where torch's quantized layers keep the quantizer of their weight."""


@dataclass(frozen=True)
class PlacedQuantizer:
    """A quantizer in a graph: whose tensor, and who reads what leaves it."""

    path: str
    quantizer: nn.Module
    name: str
    role: Role
    consumers: tuple[Edge, ...]


def iter_quantizers(network: Network) -> Iterator[PlacedQuantizer]:
    """The quantizers that a graph calls, and those inside the layers that it calls."""
    for node, op in network.ops.items():
        path = str(node.target)
        if op == QUANTIZER:
            yield PlacedQuantizer(
                path, network.module.get_submodule(path), *_tensor(network, node), _consumers(network, node)
            )
        elif node.op == "call_module":
            inside = getattr(network.module.get_submodule(path), INSIDE, None)
            if isinstance(inside, nn.Module):
                edge = Edge(network.name(node), 1)
                yield PlacedQuantizer(f"{path}.{INSIDE}", inside, f"{path}.weight", "weight", (edge,))


def _tensor(network: Network, node: fx.Node) -> tuple[str, Role]:
    source = tensor_arguments(node)[0]
    name = network.name(source) if source in network.keys else str(source.target)
    return name, "weight" if source.op == "get_attr" else "activation"


def _consumers(network: Network, node: fx.Node) -> tuple[Edge, ...]:
    return tuple(Edge(network.name(user), index) for user, index in network.edges_out(node))


def plan_from_graph(module: fx.GraphModule) -> Plan:
    """The sites of a graph that was prepared with our quantizers, by whichever means."""
    network = Network(module)
    keys = {str(key): key for key in network.keys.values()}
    sites = tuple(
        Site(
            each.name, each.role, "body", each.quantizer.grid, keys.get(each.name), each.consumers, each.quantizer.name
        )
        for each in iter_quantizers(network)
        if isinstance(each.quantizer, BoundedFakeQuantize)
    )
    blocks = tuple(network.name(node) for node in find_blocks(network))
    return Plan(sites, blocks, convs=tuple(network.name(conv) for conv in network.convs), floats={})
