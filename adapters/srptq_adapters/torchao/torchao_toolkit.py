"""torchao as a toolkit of the pipeline, and PaC on any graph that was prepared with our quantizers."""

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torchao.quantization.pt2e.fake_quantize import FakeQuantize
from torchao.quantization.pt2e.observer import MinMaxObserver, PerChannelMinMaxObserver
from torchao.quantization.pt2e.quantize_pt2e import prepare_pt2e

from srptq_adapters.torchao.fake_quantize_class import grid_of
from srptq_adapters.torchao.quantizers import SRQuantizer
from srptq_plugin.errors import SrptqError
from srptq_plugin.graph.export import own_module
from srptq_plugin.planning.plan import Plan
from srptq_plugin.planning.prepared_graph import PreparedGraph
from srptq_plugin.planning.readback import plan_from_graph
from srptq_plugin.plugins.registry import Registry
from srptq_plugin.quantization.grid import Bounds, project
from srptq_plugin.utils.progress import Progress, quiet

EXTREMES = (MinMaxObserver, PerChannelMinMaxObserver)
"""Observers that compute scale and zero point from `min_val` and `max_val` alone, moving averages among them."""


class TorchaoToolkit:
    """Realizes a plan by `prepare_pt2e`."""

    version = version("torchao")

    def realize(self, program: ExportedProgram, plan: Plan) -> PreparedGraph:
        """The prepared graph of the exported network."""
        return PreparedGraph(prepare_pt2e(own_module(program), SRQuantizer(lambda _: plan)), plan)

    def adopt(self, quantizer: nn.Module, bounds: Bounds) -> bool:
        """Start one of torchao's own fake-quantizers: observer off, quantization on."""
        if not isinstance(quantizer, FakeQuantize) or not isinstance(quantizer.activation_post_process, EXTREMES):
            return False
        quantizer.disable_observer()
        quantizer.enable_fake_quant()
        qparams = project(bounds, grid_of(quantizer)).detach()
        _fill(quantizer, "scale", qparams.scale)
        _fill(quantizer, "zero_point", qparams.zero_point)
        lower, upper = qparams.bounds.lower, qparams.bounds.upper
        if qparams.grid.symmetric:
            # The fused forward divides `max_val` by 127, `convert_pt2e` the larger end by 127.5. Both give this scale.
            lower = qparams.scale * -(qparams.grid.steps / 2)
        _fill(quantizer.activation_post_process, "min_val", lower)
        _fill(quantizer.activation_post_process, "max_val", upper)
        return True


def _fill(module: nn.Module, name: str, values: Tensor) -> None:
    """Write a buffer of an observer or a fake-quantizer, with its own type and device."""
    old = getattr(module, name)
    setattr(module, name, values.to(old).reshape((-1,) if name in ("scale", "zero_point") else values.shape))


def reconstruct(
    prepared: fx.GraphModule,
    images: Tensor,
    *,
    method: str = "pac",
    progress: Progress = quiet,
    registry: Registry | None = None,
    seed: int = 0,
    **options: Any,
) -> Mapping[str, float]:
    """Tune a calibrated graph, in place, against its float self; then `convert_pt2e` as ever."""
    plan = plan_from_graph(prepared)
    if not plan.sites:
        raise SrptqError(
            "reconstruct: no fake-quantizer of this plugin in the graph; prepare it with SRQuantizer or with_observer"
        )
    entry = (registry or Registry()).reconstruction(method)
    chosen = entry.options.parse(options, method)
    return entry.load()(PreparedGraph.wrap(prepared, plan), images, progress=progress, seed=seed, **dict(chosen))
