import operator
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import fx, nn
from torch.ao.nn import qat

from .prepare_by_platform import BackendType
from .utils.registry import DEFAULT_MODEL_QUANTIZER


class ModelQuantizer:
    functions: tuple[Callable[..., Any], ...] = (operator.add, torch.add)

    def __init__(self, extra_quantizer_dict: Mapping[str, Any], _extra_fuse_dict: Mapping[str, Any]) -> None:
        self.exclude_module_name = extra_quantizer_dict.get("exclude_module_name", [])

    def prepare(
        self, model: fx.GraphModule, qconfig: Any, _is_qat: Any, backend_config: Any, freeze_bn: Any
    ) -> fx.GraphModule:
        model = self._weight_quant(model, qconfig, backend_config, freeze_bn)
        wanted = [node for node in model.graph.nodes if self._quantizes_inputs(model, node)]
        for source in dict.fromkeys(source for node in wanted for source in node.all_input_nodes):
            name = f"{source.name}_post_act_fake_quantizer"
            model.add_submodule(name, qconfig.activation())
            with model.graph.inserting_after(source):
                call = model.graph.call_module(name, (source,))
            source.replace_all_uses_with(call, delete_user_cb=partial(operator.is_not, call))
        model.recompile()
        return model

    def _quantizes_inputs(self, model: fx.GraphModule, node: fx.Node) -> bool:
        if node.op == "call_module":
            return isinstance(model.get_submodule(str(node.target)), qat.Conv2d)
        return node.op == "call_function" and node.target in self.functions

    def _weight_quant(
        self, model: fx.GraphModule, qconfig: Any, _backend_config: Any, _freeze_bn: Any
    ) -> fx.GraphModule:
        for name, module in list(model.named_modules()):
            if type(module) is nn.Conv2d and name not in self.exclude_module_name:
                module.qconfig = qconfig
                model.set_submodule(name, qat.Conv2d.from_float(module))
        return model


class AcademicQuantizer(ModelQuantizer):
    functions = ()


DEFAULT_MODEL_QUANTIZER.update({**dict.fromkeys(BackendType, ModelQuantizer), BackendType.Academic: AcademicQuantizer})
