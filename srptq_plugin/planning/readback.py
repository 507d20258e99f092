"""The quantizers of a prepared graph, and the plan that they amount to."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import fx, nn

from srptq_plugin.graph.network import QUANTIZER, Network, tensor_arguments
from srptq_plugin.graph.stages import find_blocks
from srptq_plugin.planning.plan import Edge, Plan, Role, Site
from srptq_plugin.quantization.quantizer import BoundedFakeQuantize
from srptq_plugin.quantization.quantizer_kinds import AnyQuantizer


@dataclass(frozen=True)
class PlacedQuantizer:
    """A quantizer in a graph, with the tensor that it quantizes and the readers of its output."""

    path: str
    """Where the module is in the graph module."""
    quantizer: nn.Module
    name: str
    """The tensor: the key of an operation, or the path of a parameter."""
    role: Role
    consumers: tuple[Edge, ...]


def iter_quantizers(network: Network) -> Iterator[PlacedQuantizer]:
    """Yield the quantizers that a graph calls, and those that the called layers keep for their weights."""
    for node, op in network.ops.items():
        if node.op != "call_module":
            continue
        path = str(node.target)
        module = network.module.get_submodule(path)
        if op == QUANTIZER:
            yield PlacedQuantizer(path, module, *_tensor(network, node), _consumers(network, node))
        elif inner := _weight_quantizer(module):
            name, quantizer = inner
            reader = Edge(network.name(node), 1)  # The layer reads its image at place 0 and its weight at place 1.
            yield PlacedQuantizer(f"{path}.{name}", quantizer, f"{path}.weight", "weight", (reader,))


def plan_from_graph(module: fx.GraphModule) -> Plan:
    """Return the plan of a graph that was prepared with our quantizers, by any toolkit.

    Other quantizers are left out. Every site counts as part of the body, as a graph does not tell its stages.
    """
    network = Network(module)
    keys = {str(key): key for key in network.keys.values()}
    sites = tuple(
        Site(
            placed.name,
            placed.role,
            "body",
            placed.quantizer.grid,
            keys.get(placed.name),
            placed.consumers,
            placed.quantizer.name,
        )
        for placed in iter_quantizers(network)
        if isinstance(placed.quantizer, BoundedFakeQuantize)
    )
    blocks = tuple(network.name(node) for node in find_blocks(network))
    edges = {edge for site in sites for edge in site.consumers}
    planned = {*network.convs, *(conv for conv in network.transposed if Edge(network.name(conv), 1) in edges)}
    return Plan(sites, blocks, convs=tuple(network.name(conv) for conv in network.ops if conv in planned), floats={})


def _weight_quantizer(layer: nn.Module) -> tuple[str, nn.Module] | None:
    # By the naming rule of `AnyQuantizer`: the quantizer of a bias is a child as well, and no site.
    children = ((name, child) for name, child in layer.named_children() if name.startswith("weight"))
    return next(((name, child) for name, child in children if isinstance(child, AnyQuantizer)), None)


def _tensor(network: Network, node: fx.Node) -> tuple[str, Role]:
    source = tensor_arguments(node)[0]
    name = network.name(source) if source in network.keys else str(source.target)
    return name, "weight" if source.op == "get_attr" else "activation"


def _consumers(network: Network, node: fx.Node) -> tuple[Edge, ...]:
    return tuple(Edge(network.name(user), index) for user, index in network.edges_out(node))
