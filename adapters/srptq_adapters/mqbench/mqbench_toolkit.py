"""MQBench as a toolkit of the pipeline: a model quantizer of ours realizes the placement of the plan."""

import logging
import warnings
from collections import Counter
from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import mqbench  # pyright: ignore[reportMissingImports]
from mqbench.custom_quantizer import ModelQuantizer  # pyright: ignore[reportMissingImports]
from mqbench.fake_quantize.quantize_base import QuantizeBase  # pyright: ignore[reportMissingImports]
from mqbench.prepare_by_platform import BackendType, prepare_by_platform  # pyright: ignore[reportMissingImports]
from mqbench.utils.logger import logger as mqbench_logger  # pyright: ignore[reportMissingImports]
from mqbench.utils.registry import DEFAULT_MODEL_QUANTIZER  # pyright: ignore[reportMissingImports]
from torch import fx, nn
from torch.ao.quantization import disable_fake_quant, enable_observer
from torch.export import ExportedProgram

from srptq_adapters.mqbench.bounds_transfer import adopt
from srptq_adapters.mqbench.host import ACTIVATION
from srptq_adapters.mqbench.layers import INSIDE, layer_sites, with_layers
from srptq_adapters.mqbench.pattern import bounded
from srptq_adapters.mqbench.quantizer_class import SRFakeQuantize
from srptq_plugin.graph.export import own_module
from srptq_plugin.graph.network import Network, drop_identities
from srptq_plugin.planning.plan import Plan
from srptq_plugin.planning.prepared_graph import PreparedGraph, build_quantizer, insert_quantizers
from srptq_plugin.plugins.hosts import Change
from srptq_plugin.plugins.registry import Registry
from srptq_plugin.quantization.grid import Bounds

_SCHEME = {"bit": 8, "symmetry": True, "per_channel": False, "pot_scale": False}
_STOCK = {"observer": "MinMaxObserver", "fakequantize": "FixedFakeQuantize", "qscheme": _SCHEME}
CONFIG = {"extra_qconfig_dict": {f"{side}_{key}": value for side in "wa" for key, value in _STOCK.items()}}
"""The least that MQBench accepts. The plan's quantizers replace all that it makes from this."""


class MqbenchToolkit:
    """Realizes a plan by `prepare_by_platform`, and hosts our components for plain MQBench scripts."""

    version = mqbench.__version__

    def realize(self, program: ExportedProgram, plan: Plan) -> PreparedGraph:
        """Return the exported network with MQBench's quantized layers in the place of planned convolutions."""
        network = Network(drop_identities(own_module(program)))
        sites = layer_sites(network, plan)
        layers = {path: site.group for path, site in sites.items()}
        with _quiet(), _model_quantizer(partial(PlanQuantizer, plan, layers)):
            prepared = prepare_by_platform(with_layers(network, sites), BackendType.Academic, CONFIG, _GraphTracer())
        return PreparedGraph(prepared, plan)

    def activate(self, registry: Registry) -> Sequence[Change]:
        """Put our components into MQBench's tables, and repair its defects."""
        return ACTIVATION.begin(registry)

    def deactivate(self) -> None:
        """Undo all that `activate` did."""
        ACTIVATION.end()

    def changes(self, registry: Registry) -> Sequence[Change]:
        """Return what activating does, or did."""
        return ACTIVATION.changes(registry)

    def owns(self, quantizer: nn.Module) -> bool:
        """Tell whether a quantizer is a fake-quantizer of MQBench, or ours in MQBench's shape."""
        return isinstance(quantizer, QuantizeBase)

    def channel_axis(self, quantizer: nn.Module) -> int | None:
        """Return the axis along which an MQBench fake-quantizer has bounds for each channel."""
        return None if quantizer.ch_axis == -1 else int(quantizer.ch_axis)  # pyright: ignore[reportArgumentType]

    def adopt(self, quantizer: nn.Module, bounds: Bounds) -> bool:
        """Start an MQBench fake-quantizer from bounds."""
        adopt(quantizer, bounds)
        return True

    def observe(self, quantizer: nn.Module) -> None:
        """Let an MQBench fake-quantizer observe, and quantize nothing."""
        enable_observer(quantizer)
        disable_fake_quant(quantizer)

    def bounded(self, model: fx.GraphModule) -> AbstractContextManager[object]:
        """Replace MQBench's quantizers by ours within `with`."""
        return bounded(model)


class PlanQuantizer(ModelQuantizer):  # pyright: ignore[reportUntypedBaseClass]
    """An MQBench model quantizer that places by a plan: weight quantizers inside layers, all others as calls."""

    def __init__(self, plan: Plan, layers: dict[str, str], extra_quantizer_dict: Any, extra_fuse_dict: Any) -> None:
        super().__init__(extra_quantizer_dict, extra_fuse_dict)
        self.plan, self.layers = plan, layers

    def prepare(self, model: fx.GraphModule, qconfig: Any, _is_qat: Any, backend_config: Any, freeze_bn: Any) -> Any:
        """Swap the layers as MQBench does, then put the plan's quantizers at its sites."""
        # MQBench finds the layers by their qconfig. The stock quantizers that it puts into them are replaced here.
        model = self._weight_quant(model, qconfig, backend_config, freeze_bn)
        quantizers = {g: SRFakeQuantize.around(build_quantizer(self.plan, g)) for g in self.plan.groups}
        for path, group in self.layers.items():
            setattr(model.get_submodule(path), INSIDE, quantizers[group])
        inside = {f"{path}.weight" for path in self.layers}
        called = replace(self.plan, sites=tuple(site for site in self.plan.sites if site.name not in inside))
        return insert_quantizers(model, called, quantizers, _PostActivation())


class _PostActivation:
    """A namer of quantizers in MQBench's way. Its switches tell weights from activations by these names."""

    def __init__(self) -> None:
        self._known = Counter[str]()

    def __call__(self, _number: int, source: fx.Node) -> str:
        suffix = INSIDE if source.op == "get_attr" else "post_act_fake_quantizer"
        name = f"{source.name}_{suffix}"
        self._known[name] += 1
        return name if self._known[name] == 1 else f"{name}_{self._known[name]}"


class _GraphTracer:
    """A tracer for a module that is a graph already."""

    def trace(self, module: fx.GraphModule, _concrete_args: Any = None) -> fx.Graph:
        """Return the module's own graph."""
        return module.graph


@contextmanager
def _model_quantizer(make: Any) -> Generator[None]:
    """Let MQBench's Academic backend prepare by this model quantizer."""
    before = DEFAULT_MODEL_QUANTIZER[BackendType.Academic]
    DEFAULT_MODEL_QUANTIZER[BackendType.Academic] = make
    try:
        yield
    finally:
        DEFAULT_MODEL_QUANTIZER[BackendType.Academic] = before


@contextmanager
def _quiet() -> Generator[None]:
    """Silence MQBench, which logs to standard output, where the command line prints its results."""
    before = mqbench_logger.level
    mqbench_logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        mqbench_logger.setLevel(before)
