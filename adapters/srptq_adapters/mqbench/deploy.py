"""What `convert_deploy` wrote, read again and made right: each function looks at the file and mends what it finds."""

import json
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from mqbench import convert_deploy  # pyright: ignore[reportMissingImports]
from onnx import helper, numpy_helper
from torch import nn

from srptq_adapters.mqbench.bounds_transfer import is_plain
from srptq_plugin.graph.types import Array
from srptq_plugin.planning.readback import INSIDE
from srptq_plugin.quantization.grid import IntGrid

DOMAIN = "org.openvinotoolkit"
ENCODINGS = "0.6.1"
DOUBLED = 128
FAKE_QUANTIZE = """
<domain: "org.openvinotoolkit", opset_import: ["" : 13]>
FakeQuantize <levels> (x, low_in, high_in, low_out, high_out) => (y)
{
    one = Constant <value_float = 1.0> ()
    count = Constant <value_int = @levels> ()
    all = Cast <to = 1> (count)
    steps = Sub (all, one)
    below = Max (x, low_in)
    inside = Min (below, high_in)
    width_in = Sub (high_in, low_in)
    width_out = Sub (high_out, low_out)
    offset = Sub (inside, low_in)
    share = Div (offset, width_in)
    place = Mul (share, steps)
    level = Round (place)
    back = Div (level, steps)
    scaled = Mul (back, width_out)
    y = Add (scaled, low_out)
}
"""
"""What OpenVINO's operation means, for runtimes that don't know it."""


@dataclass(frozen=True)
class Encoded:
    """A tensor that a file quantizes: its integers' ends, scale and zero point."""

    node: onnx.NodeProto
    low: int
    high: int
    scale: Array
    zero_point: Array

    @property
    def bits(self) -> int:
        """How many bits its integers have."""
        return IntGrid.between(self.low, self.high).bits


def snap_weights(model: nn.Module, **_: Any) -> None:
    """Each weight exactly at the level that torch rounds it to: at a tie, a runtime's division may round otherwise."""
    layers: Iterator[Any] = model.modules()
    for layer in layers:
        quantizer = getattr(layer, INSIDE, None)
        if quantizer is not None and is_plain(quantizer):
            with torch.no_grad():
                layer.weight.copy_(quantizer(layer.weight))


def split_shared(_model: Any, *, onnx_model_path: str, **_: Any) -> None:
    """A QuantizeLinear and DequantizeLinear of its own for each layer that reads a weight."""
    model = onnx.load(onnx_model_path)
    readers = _readers(model.graph)
    for each in encoded(model.graph):
        for back in readers[each.node.output[0]]:
            layers = [node for node in readers[back.output[0]] if back.output[0] in node.input[1:2]]
            for number, layer in enumerate(layers[1:], start=2):
                _own_quantizer(model.graph, each, back, layer, f"_{number}")
    onnx.save(model, onnx_model_path)


def _own_quantizer(
    graph: onnx.GraphProto, each: Encoded, back: onnx.NodeProto, layer: onnx.NodeProto, suffix: str
) -> None:
    copies: list[onnx.NodeProto] = []
    for node in (each.node, back):
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.name, copy.output[0] = node.name + suffix, node.output[0] + suffix
        copies.append(copy)
    copies[1].input[0] = copies[0].output[0]
    layer.input[1] = copies[1].output[0]
    convert_deploy.qmin_max_dict[copies[0].name] = (each.low, each.high)
    for copy in reversed(copies):
        graph.node.insert(list(graph.node).index(each.node) + 1, copy)


def clip_narrow(_model: Any, *, onnx_model_path: str, **_: Any) -> None:
    """An integer Clip behind each QuantizeLinear of less than 8 bits, whose types would hold more."""
    model = onnx.load(onnx_model_path)
    readers = _readers(model.graph)
    for each in encoded(model.graph):
        output = each.node.output[0]
        kind = np.uint8 if each.low == 0 else np.int8
        full = (each.low, each.high) in ((0, 255), (-128, 127))
        if not full and not any(reader.op_type == "Clip" for reader in readers[output]):
            _insert_clip(model.graph, each, kind)
    onnx.save(model, onnx_model_path)


def _insert_clip(graph: onnx.GraphProto, each: Encoded, kind: type[np.integer[Any]]) -> None:
    name, output = each.node.name, each.node.output[0]
    ends = {f"{output}_{end}": value for end, value in (("low", each.low), ("high", each.high))}
    for node in _readers(graph)[output]:
        for place, source in enumerate(node.input):
            if source == output:
                node.input[place] = f"{output}_clipped"
    graph.initializer.extend(numpy_helper.from_array(np.array(value, kind), end) for end, value in ends.items())
    clip = helper.make_node("Clip", [output, *ends], [f"{output}_clipped"], name=f"{name}_clip")
    graph.node.insert(list(graph.node).index(each.node) + 1, clip)


def encoded(graph: onnx.GraphProto) -> Iterator[Encoded]:
    """The tensors that a Q/DQ file of MQBench's quantizes, with the ends that it kept beside the file."""
    known = _constants(graph)
    for node in list(graph.node):
        if node.op_type == "QuantizeLinear":
            low, high = map(int, convert_deploy.qmin_max_dict.get(node.name, _type_ends(known[node.input[2]])))
            scale, zero_point = (known[name].reshape(-1) for name in node.input[1:3])
            yield Encoded(node, low, high, scale.astype(np.float64), zero_point.astype(np.int64))


def _type_ends(zero_point: Any) -> tuple[int, int]:
    info = np.iinfo(zero_point.dtype)
    return int(info.min), int(info.max)


def _constants(graph: onnx.GraphProto) -> dict[str, Any]:
    constants = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            constants[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
    return constants


def _readers(graph: onnx.GraphProto) -> dict[str, list[onnx.NodeProto]]:
    readers: dict[str, list[onnx.NodeProto]] = {name: [] for node in graph.node for name in node.output}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    return readers


def write_encodings(_model: Any, *, onnx_model_path: str, model_name: str, **_: Any) -> None:
    """SNPE's JSON with a version, whole encodings and those of the parameters, as Qualcomm's readers want it."""
    graph = onnx.load(onnx_model_path).graph
    path = Path(onnx_model_path).with_name(f"{model_name}_clip_ranges.json")
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    initializers = {each.name for each in graph.initializer}
    whole = {each.node.input[0]: list(_encodings(each)) for each in encoded(graph)}
    activations = {name: whole.get(name, given) for name, given in content["activation_encodings"].items()}
    parameters = {name: found for name, found in whole.items() if name in initializers}
    file = {"version": ENCODINGS, "activation_encodings": activations, "param_encodings": parameters}
    path.write_text(json.dumps(file, indent=4) + "\n", encoding="utf-8")


def _encodings(each: Encoded) -> Iterator[Mapping[str, Any]]:
    symmetric = each.low < 0
    for scale, zero_point in zip(each.scale.tolist(), each.zero_point.tolist(), strict=True):
        offset = -(2 ** (each.bits - 1)) if symmetric else -zero_point
        yield {
            "bitwidth": each.bits,
            "dtype": "int",
            "is_symmetric": str(symmetric),
            "min": scale * offset,
            "max": scale * (offset + 2**each.bits - 1),
            "offset": offset,
            "scale": scale,
        }


def shape_ranges(_model: Any, *, onnx_model_path: str, model_name: str, **_: Any) -> None:
    """OPENVINO's weight ranges along the axis of the output channels, not along the last one."""
    with _deployed(onnx_model_path, model_name) as model:
        initializers = {each.name: each for each in model.graph.initializer}
        readers = _readers(model.graph)
        for node in model.graph.node:
            weight = initializers.get(node.input[0]) if node.op_type == "FakeQuantize" else None
            if weight is not None:
                axis = 1 if readers[node.output[0]][0].op_type == "ConvTranspose" else 0
                for name in node.input[1:]:
                    _reshape(initializers[name], axis, len(weight.dims))


def keep_levels(_model: Any, *, onnx_model_path: str, model_name: str, **_: Any) -> None:
    """OPENVINO's 7-bit activations at their 128 levels: MQBench takes every 128 for weights, and doubles them."""
    with _deployed(onnx_model_path, model_name) as model:
        known = {each.name: each for each in model.graph.initializer}
        for node in model.graph.node:
            low, high = convert_deploy.qmin_max_dict.get(node.name, (0, 0))
            if node.op_type == "FakeQuantize" and high - low + 1 == DOUBLED and node.input[0] not in known:
                _halve(node, known, int(low))


def _halve(node: onnx.NodeProto, known: Mapping[str, onnx.TensorProto], low: int) -> None:
    first, last = (numpy_helper.to_array(known[name]).astype(np.float64) for name in node.input[1:3])
    scale = (last - first) / (2 * DOUBLED - 1)
    start = first - low * scale
    for name, end in zip(node.input[1:], (start, start + (DOUBLED - 1) * scale) * 2, strict=True):
        known[name].CopyFrom(numpy_helper.from_array(end.astype(np.float32), name))
    next(each for each in node.attribute if each.name == "levels").i = DOUBLED


def _reshape(ranges: onnx.TensorProto, axis: int, dims: int) -> None:
    values = numpy_helper.to_array(ranges)
    shape = [1] * dims
    shape[axis] = -1
    if values.ndim == 1 and values.size > 1:
        ranges.CopyFrom(numpy_helper.from_array(values.reshape(shape), ranges.name))


def define_fake_quantize(_model: Any, *, onnx_model_path: str, model_name: str, **_: Any) -> None:
    """OPENVINO's FakeQuantize spelt out inside the file, which OpenVINO reads as before and others can now run."""
    with _deployed(onnx_model_path, model_name) as model:
        uses = any(node.domain == DOMAIN for node in model.graph.node)
        if uses and not any(each.domain == DOMAIN for each in model.functions):
            model.functions.append(onnx.parser.parse_function(FAKE_QUANTIZE))
        if uses and not any(each.domain == DOMAIN for each in model.opset_import):
            model.opset_import.append(helper.make_opsetid(DOMAIN, 1))


@contextmanager
def _deployed(onnx_model_path: str, model_name: str) -> Generator[onnx.ModelProto]:
    """The file that is to be deployed, written back."""
    path = Path(onnx_model_path).with_name(f"{model_name}_deploy_model.onnx")
    model = onnx.load(path)
    yield model
    onnx.save(model, path)
