"""torchao as a toolkit of the pipeline, and PaC on any graph that was prepared with our quantizers."""

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from torch import Tensor, fx
from torch.export import ExportedProgram
from torchao.quantization.pt2e.quantize_pt2e import prepare_pt2e

from srptq_adapters.torchao.quantizers import SRQuantizer
from srptq_adapters.torchao.shell import SRFakeQuantize
from srptq_plugin.contracts import Progress, quiet
from srptq_plugin.errors import SrptqError
from srptq_plugin.graph import PreparedGraph
from srptq_plugin.network import Network, tensor_arguments
from srptq_plugin.plan import Edge, Plan, Site
from srptq_plugin.registry import Registry
from srptq_plugin.stages import find_blocks


class TorchaoToolkit:
    """Realises a plan by `prepare_pt2e`."""

    version = version("torchao")

    def realise(self, program: ExportedProgram, plan: Plan) -> PreparedGraph:
        """The prepared graph of the exported network."""
        return PreparedGraph(prepare_pt2e(program.module(), SRQuantizer(lambda _: plan)), plan)


def reconstruct(
    prepared: fx.GraphModule,
    images: Tensor,
    *,
    method: str = "pac",
    progress: Progress = quiet,
    registry: Registry | None = None,
    **options: Any,
) -> Mapping[str, float]:
    """Tune a calibrated graph, in place, against its float self; then `convert_pt2e` as ever."""
    tune = (registry or Registry()).reconstruction(method).load()
    return tune(PreparedGraph(prepared, plan_of(prepared)), images, progress=progress, **options)


def plan_of(prepared: fx.GraphModule) -> Plan:
    """Read the sites back from a graph that any quantizer prepared with our fake-quantizers."""
    network = Network(prepared)
    calls = [(node, _quantizer(prepared, node)) for node in prepared.graph.nodes]
    sites = tuple(_site(network, node, found) for node, found in calls if found is not None)
    if not sites:
        raise SrptqError(
            "reconstruct: no fake-quantizer of this plugin in the graph; prepare it with SRQuantizer or with_observer"
        )
    blocks = tuple(network.name(node) for node in find_blocks(network))
    return Plan(sites, blocks, convs=tuple(network.name(conv) for conv in network.convs), floats={})


def _quantizer(prepared: fx.GraphModule, node: fx.Node) -> SRFakeQuantize | None:
    found = prepared.get_submodule(str(node.target)) if node.op == "call_module" else None
    return found if isinstance(found, SRFakeQuantize) else None


def _site(network: Network, node: fx.Node, quantizer: SRFakeQuantize) -> Site:
    source = tensor_arguments(node)[0]
    name = network.name(source) if source in network.keys else str(source.target)
    users = [user for user in node.users if user in network.keys]
    edges = tuple(Edge(network.name(user), tensor_arguments(user).index(node)) for user in users)
    role = "weight" if source.op == "get_attr" else "activation"
    return Site(name, role, "body", quantizer.grid, name, edges, group=quantizer.name)
