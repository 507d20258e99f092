"""torchao as a toolkit of the pipeline, and reconstruction of any graph that was prepared with our quantizers."""

from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import Any

import torch.ao.quantization.fx.utils
import torchao.utils
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torchao.quantization.pt2e.fake_quantize import (
    FakeQuantize,
    FakeQuantizeBase,
    disable_fake_quant,
    enable_observer,
)
from torchao.quantization.pt2e.observer import MinMaxObserver, PerChannelMinMaxObserver
from torchao.quantization.pt2e.quantize_pt2e import prepare_pt2e

from srptq_adapters.torchao.fake_quantize_class import read_grid
from srptq_adapters.torchao.quantizers import SRQuantizer
from srptq_plugin.errors import SrptqError
from srptq_plugin.graph.export import own_module
from srptq_plugin.planning.plan import Plan
from srptq_plugin.planning.prepared_graph import PreparedGraph
from srptq_plugin.planning.readback import plan_from_graph
from srptq_plugin.plugins.registry import Registry
from srptq_plugin.quantization.grid import Bounds, project
from srptq_plugin.utils.progress import Progress, quiet

KEEPERS = (
    (torchao.utils, "_assert_and_get_unique_device"),
    (torch.ao.quantization.fx.utils, "assert_and_get_unique_device"),
)
"""Functions that remember the device of each network, by the network itself."""
EXTREMES = (MinMaxObserver, PerChannelMinMaxObserver)
"""Observers that compute scale and zero point from `min_val` and `max_val` alone, moving averages among them."""


class TorchaoToolkit:
    """The toolkit that realizes a plan by `prepare_pt2e`."""

    version = version("torchao")

    def realize(self, program: ExportedProgram, plan: Plan) -> PreparedGraph:
        """Return the exported network, prepared by torchao with the plan's quantizers."""
        prepared = PreparedGraph(prepare_pt2e(own_module(program), SRQuantizer(lambda _: plan)), plan)
        _forget_networks()
        return prepared

    def owns(self, quantizer: nn.Module) -> bool:
        """Tell whether a quantizer is torchao's own fake-quantizer."""
        return isinstance(quantizer, FakeQuantizeBase)

    def channel_axis(self, quantizer: nn.Module) -> int | None:
        """Return the axis along which a fake-quantizer has bounds for each channel."""
        axis: Any = getattr(quantizer, "ch_axis", -1)
        return None if axis == -1 else axis

    def adopt(self, quantizer: nn.Module, bounds: Bounds) -> bool:
        """Start a fake-quantizer from bounds: observer off, quantization on.

        Return False, and change nothing, if its observer keeps more than extremes.
        """
        if not isinstance(quantizer, FakeQuantize) or not isinstance(quantizer.activation_post_process, EXTREMES):
            return False
        quantizer.disable_observer()
        quantizer.enable_fake_quant()
        qparams = project(bounds, read_grid(quantizer)).detach()
        _fill(quantizer, "scale", qparams.scale)
        _fill(quantizer, "zero_point", qparams.zero_point)
        lower, upper = qparams.bounds.lower, qparams.bounds.upper
        if qparams.grid.symmetric:
            # The fused forward divides `max_val` by 127, `convert_pt2e` the larger end by 127.5. Both give this scale:
            # the upper end is 127 steps away from 0, and the lower end 127.5.
            lower = qparams.scale * -(qparams.grid.steps / 2)
        _fill(quantizer.activation_post_process, "min_val", lower)
        _fill(quantizer.activation_post_process, "max_val", upper)
        return True

    def observe(self, quantizer: nn.Module) -> None:
        """Let a fake-quantizer observe, and quantize nothing."""
        enable_observer(quantizer)
        disable_fake_quant(quantizer)


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
    """Tune a calibrated graph in place, with its float network as the teacher. `convert_pt2e` comes next.

    Args:
        prepared: a graph that `prepare_pt2e` made with `SRQuantizer` or `with_observer`.
        images: patches [N, 3, H, W] in the network's own range.
        method: the name of the reconstruction.
        progress: shown while tuning.
        registry: where the reconstruction is looked up.
        seed: the seed of its random draws.
        options: the options of the reconstruction.

    Returns:
        The reconstruction's figures by name.
    """
    plan = plan_from_graph(prepared)
    if not plan.sites:
        raise SrptqError(
            "reconstruct: no fake-quantizer of this plugin in the graph; prepare it with SRQuantizer or with_observer"
        )
    entry = (registry or Registry()).reconstruction(method)
    chosen = entry.options.parse(options, method)
    return entry.load()(PreparedGraph.wrap(prepared, plan), images, progress=progress, seed=seed, **dict(chosen))


def _forget_networks() -> None:
    """Empty caches of torch and torchao without a limit. They keep every network that was ever prepared."""
    for module, name in KEEPERS:
        clear: Callable[[], None] | None = getattr(getattr(module, name, None), "cache_clear", None)
        if clear is not None:
            clear()


def _fill(module: nn.Module, name: str, values: Tensor) -> None:
    """Write a buffer of an observer or a fake-quantizer, with its own type and device."""
    old = getattr(module, name)
    # torchao keeps scale and zero point in one dimension. Extremes of one channel pair are 0-dimensional.
    setattr(module, name, values.to(old).reshape((-1,) if name in ("scale", "zero_point") else values.shape))
