"""Repairs of MQBench, one by one: what is broken, whether it is here, and how to mend and un-mend it."""

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
from srptq_adapters.mqbench.bounds_transfer import start_pact
from srptq_adapters.mqbench.grids import bounds_of, grid_of
from srptq_adapters.mqbench.observer_class import SRObserver
from srptq_adapters.mqbench.patching import Undo, inserted, swapped
from srptq_plugin.quantization.grid import project

BACKENDS = ("Academic", "Tensorrt", "SNPE", "OPENVINO", "QDQ", "PPLCUDA")
HANDED_ON = ("dynamic_axes", "output_names")
LINEAR = ("Tensorrt", "SNPE", "PPLCUDA")
"""Those whose files `deploy_linear` makes, which wants a quantizer of its own for every weight."""


@dataclass(frozen=True)
class Repair:
    """Something that MQBench gets wrong; `broken` probes for it, none where each file is looked at instead."""

    name: str
    summary: str
    apply: Callable[[], Undo]
    broken: Callable[[], bool] | None = None

    @property
    def needed(self) -> bool:
        """Whether it is to be mended here."""
        return self.broken is None or self.broken()


def repairs() -> Iterator[Repair]:
    """Those of deploying in the order in which the files are made."""
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
        partial(_swap, convert_deploy, "torch", _Torch),
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
        "an input that is left out, such as those of Resize",
        partial(_swap, ONNXGraph, "prepare_initializer", _with_left_out),
    )


def _around_the_export() -> Iterator[Repair]:
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
        "equal weights that the export made one, such as those of mean shifts",
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
            ("OPENVINO FakeQuantize", "spelt out for other runtimes", ("OPENVINO",), deploy.define_fake_quantize),
        )
    )


def _swap(owner: Any, name: str, around: Callable[[Any], Any]) -> Undo:
    return swapped(owner, name, around(getattr(owner, name)))


def _deploying(backends: tuple[str, ...], function: Callable[..., None], **where: Any) -> Undo:
    undos = [inserted(BACKEND_DEPLOY_FUNCTION[BackendType[name]], function, **where) for name in backends]

    def undo() -> None:
        for each in undos:
            each()

    return undo


def _handing_on(stock: Callable[..., None]) -> Callable[..., None]:
    def deploying(model: Any, backend_type: Any, *args: Any, **keywords: Any) -> None:
        """MQBench's `convert_deploy`, which drops what the export could do with."""
        wanted = {key: keywords.pop(key) for key in HANDED_ON if key in keywords}
        functions, export = BACKEND_DEPLOY_FUNCTION[backend_type], convert_deploy.convert_onnx
        place = functions.index(export)
        functions[place] = partial(export, **wanted)
        try:
            stock(model, backend_type, *args, **keywords)
        finally:
            functions[place] = export

    return deploying


def _exports_by_dynamo() -> bool:
    found = inspect.signature(torch.onnx.export).parameters.get("dynamo")
    return found is not None and found.default is True


class _Torch:
    """Torch, but for one default of `onnx.export`."""

    def __init__(self, real: Any) -> None:
        self._real = real

    def __getattr__(self, name: str) -> Any:
        return _Onnx(self._real.onnx) if name == "onnx" else getattr(self._real, name)


class _Onnx:
    def __init__(self, real: Any) -> None:
        self._real = real

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._real, name)
        return partial(found, dynamo=False) if name == "export" else found


def _wide_qparams(stock: Callable[..., tuple[str, Any, Any]]) -> Callable[..., tuple[str, Any, Any]]:
    def parse_qparams(self: Any, node: onnx.NodeProto, name2data: Mapping[str, Any]) -> tuple[str, Any, Any]:
        name, scale, zero_point = stock(self, node, name2data)
        scale, zero_point = np.asarray(scale), np.asarray(zero_point, np.int64)
        return (name, scale.reshape(()), zero_point.reshape(())) if scale.size == 1 else (name, scale, zero_point)

    return parse_qparams


def _zero_points_wrap() -> bool:
    node = onnx.helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["y"])
    known = {"scale": np.ones(1, np.float32), "zero": np.ones(1, np.uint8)}
    _, scale, zero_point = deploy_linear.LinearQuantizer_process().parse_qparams(node, known)
    return bool(np.shape(scale) or np.any(0 - zero_point > 0))


def _with_outputs(stock: Callable[..., Any]) -> Callable[..., Any]:
    def update_inp2node_out2node(graph: onnx.GraphProto) -> tuple[Any, Any]:
        """As MQBench's, and a reader of nothing behind each output."""
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
        """As MQBench's, and the empty name, which ordering the nodes then takes for one that exists."""
        stock(self)
        self.initializer[""] = None

    return prepare_initializer


def _calibrating_pact(stock: Callable[[Any, Tensor], Tensor]) -> Callable[[Any, Tensor], Tensor]:
    def forward(self: Any, values: Tensor) -> Tensor:
        """Calibrating, PACT takes its bounds from an observer of ours; training, they are its own."""
        observer = self.activation_post_process
        calibrating = self.observer_enabled[0] == 1 and self.fake_quant_enabled[0] == 0
        if not (calibrating and isinstance(observer, SRObserver)):
            return stock(self, values)
        observer(values.detach())
        self.scale, self.zero_point = observer.calculate_qparams()
        start_pact(self, project(bounds_of(self.scale, self.zero_point, grid_of(self)), grid_of(self)))
        return values

    return forward
