"""Repairs of MQBench: for each defect a probe whether this version has it, the repair, and its undo."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import onnx
import torch
from mqbench import convert_deploy  # pyright: ignore[reportMissingImports]
from mqbench.deploy import deploy_linear  # pyright: ignore[reportMissingImports]
from mqbench.deploy.common import ONNXGraph  # pyright: ignore[reportMissingImports]
from mqbench.fake_quantize import PACTFakeQuantize  # pyright: ignore[reportMissingImports]
from mqbench.prepare_by_platform import BackendType  # pyright: ignore[reportMissingImports]
from mqbench.utils.registry import BACKEND_DEPLOY_FUNCTION  # pyright: ignore[reportMissingImports]
from torch import Tensor

from srptq_adapters.mqbench import deploy
from srptq_adapters.mqbench.bounds_transfer import set_clip
from srptq_adapters.mqbench.grids import read_grid, to_bounds
from srptq_adapters.mqbench.observer_class import SRObserver
from srptq_adapters.mqbench.patching import Undo, inserted, swapped
from srptq_plugin.quantization.grid import project

BACKENDS = ("Academic", "Tensorrt", "SNPE", "OPENVINO", "QDQ", "PPLCUDA")
HANDED_ON = ("dynamic_axes", "output_names")
"""Keywords that `convert_deploy` drops, and the export understands."""
LINEAR = ("Tensorrt", "SNPE", "PPLCUDA")
"""Backends whose files `deploy_linear` makes. It needs a quantizer of its own for every layer."""


@dataclass(frozen=True)
class Repair:
    """The repair of a defect of MQBench."""

    name: str
    summary: str
    apply: Callable[[], Undo]
    broken: Callable[[], bool] | None = None
    """Probes this MQBench for the defect. `None` if the repair itself looks at each file."""

    @property
    def needed(self) -> bool:
        """Whether this MQBench has the defect."""
        return self.broken is None or self.broken()


def repairs() -> Iterator[Repair]:
    """Yield all repairs, for deploying in the order in which MQBench makes its files."""
    yield from _of_functions()
    yield from _around_the_export()
    yield from _in_the_files()
    yield Repair(
        "PACT's start", "alpha from dbdc and the like", partial(_swap, PACTFakeQuantize, "forward", _calibrating_pact)
    )


def _of_functions() -> Iterator[Repair]:
    yield Repair(
        "TorchScript export",
        "torch.onnx.export with dynamo=False, inside convert_deploy only",
        partial(_swap, convert_deploy, "torch", _TorchWithoutDynamo),
        _exports_by_dynamo,
    )
    process = deploy_linear.LinearQuantizer_process
    yield Repair(
        "zero points",
        "scales and zero points of one value as numbers, zero points as wide integers",
        partial(_swap, process, "parse_qparams", _wide_qparams),
        _zero_points_wrap,
    )
    yield Repair(
        "quantized output",
        "a fake-quantizer that feeds the network's output",
        partial(_swap, deploy_linear, "update_inp2node_out2node", _with_outputs),
        _outputs_have_no_reader,
    )
    yield Repair(
        "optional inputs",
        "an input that is left out, as Resize allows",
        partial(_swap, ONNXGraph, "prepare_initializer", _with_left_out),
    )


def _around_the_export() -> Iterator[Repair]:
    # MQBench runs a list of functions for each backend. Before the export it holds the model, behind it the ONNX file.
    yield Repair(
        "dynamic_axes, output_names",
        "convert_deploy hands them on to the export",
        partial(_swap, convert_deploy, "convert_deploy", _handing_on),
    )
    yield Repair(
        "weights at their levels",
        "so that no runtime rounds one otherwise than torch",
        partial(_deploying, BACKENDS, deploy.snap_weights, before=convert_deploy.convert_onnx),
    )
    yield Repair(
        "shared weights",
        "equal weights that the export made one, as in mean shifts",
        partial(_deploying, LINEAR, deploy.split_shared, behind=convert_deploy.convert_onnx),
    )


def _in_the_files() -> Iterator[Repair]:
    yield from (
        Repair(name, summary, partial(_deploying, backends, function))
        for name, summary, backends, function in (
            ("range below 8 bits", "a Clip where a file's 8-bit types hold more", BACKENDS, deploy.clip_narrow),
            ("SNPE encodings", "a version, whole encodings, the parameters'", ("SNPE",), deploy.write_encodings),
            ("OPENVINO ranges", "shaped [C, 1, 1, 1]", ("OPENVINO",), deploy.shape_ranges),
            ("OPENVINO 7 bits", "activations keep their 128 levels", ("OPENVINO",), deploy.keep_levels),
            (
                "OPENVINO FakeQuantize",
                "defined in the file for other runtimes",
                ("OPENVINO",),
                deploy.define_fake_quantize,
            ),
        )
    )


def _swap(owner: Any, name: str, around: Callable[[Any], Any]) -> Undo:
    return swapped(owner, name, around(getattr(owner, name)))


def _deploying(backends: tuple[str, ...], function: Callable[..., None], **where: Any) -> Undo:
    undos = [inserted(BACKEND_DEPLOY_FUNCTION[BackendType[name]], function, **where) for name in backends]

    def undo_all() -> None:
        for undo in undos:
            undo()

    return undo_all


def _handing_on(stock: Callable[..., None]) -> Callable[..., None]:
    def deploy_with_keywords(model: Any, backend_type: Any, *args: Any, **keywords: Any) -> None:
        """Call MQBench's `convert_deploy`, with the dropped keywords bound to the export for this call."""
        handed_on = {key: keywords.pop(key) for key in HANDED_ON if key in keywords}
        functions, export = BACKEND_DEPLOY_FUNCTION[backend_type], convert_deploy.convert_onnx
        index = functions.index(export)
        functions[index] = partial(export, **handed_on)
        try:
            stock(model, backend_type, *args, **keywords)
        finally:
            functions[index] = export

    return deploy_with_keywords


def _exports_by_dynamo() -> bool:
    parameter = inspect.signature(torch.onnx.export).parameters.get("dynamo")
    return parameter is not None and parameter.default is True


class _TorchWithoutDynamo:
    """Torch with `dynamo=False` as the default of `onnx.export`. It replaces the name `torch` in one module only."""

    def __init__(self, real: Any) -> None:
        self._real = real

    def __getattr__(self, name: str) -> Any:
        return _OnnxWithoutDynamo(self._real.onnx) if name == "onnx" else getattr(self._real, name)


class _OnnxWithoutDynamo:
    def __init__(self, real: Any) -> None:
        self._real = real

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._real, name)
        return partial(attribute, dynamo=False) if name == "export" else attribute


def _wide_qparams(stock: Callable[..., tuple[str, Any, Any]]) -> Callable[..., tuple[str, Any, Any]]:
    def parse_qparams(self: Any, node: onnx.NodeProto, name2data: Mapping[str, Any]) -> tuple[str, Any, Any]:
        name, scale, zero_point = stock(self, node, name2data)
        # MQBench negates and subtracts zero points. As uint8 they wrap around. As arrays of shape [1] they end up in
        # the JSON as lists, where one number is due.
        scale, zero_point = np.asarray(scale), np.asarray(zero_point, np.int64)
        return (name, scale.reshape(()), zero_point.reshape(())) if scale.size == 1 else (name, scale, zero_point)

    return parse_qparams


def _zero_points_wrap() -> bool:
    node = onnx.helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["y"])
    constants = {"scale": np.ones(1, np.float32), "zero": np.ones(1, np.uint8)}
    _, scale, zero_point = deploy_linear.LinearQuantizer_process().parse_qparams(node, constants)
    return bool(np.shape(scale) or np.any(0 - zero_point > 0))


def _with_outputs(stock: Callable[..., Any]) -> Callable[..., Any]:
    def update_inp2node_out2node(graph: onnx.GraphProto) -> tuple[Any, Any]:
        """Call MQBench's function, and add a nameless reader to each output, so that looking one up cannot fail."""
        out2node, inp2node = stock(graph)
        for output in graph.output:
            inp2node.setdefault(output.name, [[onnx.helper.make_node("", [output.name], []), 0]])
        return out2node, inp2node

    return update_inp2node_out2node


def _outputs_have_no_reader() -> bool:
    output = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    node = onnx.helper.make_node("DequantizeLinear", ["x", "scale"], ["y"])
    graph = onnx.helper.make_graph([node], "probe", [], [output])
    return "y" not in deploy_linear.update_inp2node_out2node(graph)[1]


def _with_left_out(stock: Callable[[Any], None]) -> Callable[[Any], None]:
    def prepare_initializer(self: Any) -> None:
        """Call MQBench's method, and add the empty name of inputs that are left out.

        Without it, ordering the nodes waits for a node that makes it.
        """
        stock(self)
        self.initializer[""] = None

    return prepare_initializer


def _calibrating_pact(stock: Callable[[Any, Tensor], Tensor]) -> Callable[[Any, Tensor], Tensor]:
    def forward(self: Any, values: Tensor) -> Tensor:
        """Set PACT's bounds from our observer during calibration. In training they are PACT's own."""
        observer = self.activation_post_process
        calibrating = self.observer_enabled[0] == 1 and self.fake_quant_enabled[0] == 0
        if not (calibrating and isinstance(observer, SRObserver)):
            return stock(self, values)
        observer(values.detach())
        self.scale, self.zero_point = observer.calculate_qparams()
        set_clip(self, project(to_bounds(self.scale, self.zero_point, read_grid(self)), read_grid(self)))
        return values

    return forward
