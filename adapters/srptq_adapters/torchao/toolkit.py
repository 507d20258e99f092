"""torchao as a toolkit of the pipeline, and PaC on any graph that was prepared with our quantizers."""

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from torch import Tensor, fx
from torch.export import ExportedProgram
from torchao.quantization.pt2e.quantize_pt2e import prepare_pt2e

from srptq_adapters.torchao.quantizers import SRQuantizer
from srptq_plugin.contracts import Progress, quiet
from srptq_plugin.errors import SrptqError
from srptq_plugin.export import own_module
from srptq_plugin.graph import PreparedGraph
from srptq_plugin.placed import plan_of
from srptq_plugin.registry import Registry
from srptq_plugin.sites import Plan


class TorchaoToolkit:
    """Realises a plan by `prepare_pt2e`."""

    version = version("torchao")

    def realise(self, program: ExportedProgram, plan: Plan) -> PreparedGraph:
        """The prepared graph of the exported network."""
        return PreparedGraph(prepare_pt2e(own_module(program), SRQuantizer(lambda _: plan)), plan)


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
    plan = plan_of(prepared)
    if not plan.sites:
        raise SrptqError(
            "reconstruct: no fake-quantizer of this plugin in the graph; prepare it with SRQuantizer or with_observer"
        )
    tune = (registry or Registry()).reconstruction(method).load()
    return tune(PreparedGraph.within(prepared, plan), images, progress=progress, **options)
