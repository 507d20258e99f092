"""Corrections of the files that `convert_deploy` wrote. Each function reads a file and writes it back, if need be.

MQBench calls them with its own keyword arguments, in the order in which `repairs.py` lists them.
"""

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
from srptq_adapters.mqbench.layers import INSIDE
from srptq_plugin.graph.types import Array
from srptq_plugin.quantization.grid import IntGrid

DOMAIN = "org.openvinotoolkit"
ENCODINGS = "0.6.1"
"""The version of the format that Qualcomm's readers accept."""
DOUBLED = 128
"""The number of levels that MQBench takes for 7-bit weights and doubles."""
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
"""OpenVINO's operation in terms of ONNX, for runtimes that don't know it."""


@dataclass(frozen=True)
class Encoded:
    """A tensor that a file quantizes: its QuantizeLinear, smallest and largest integer, scale and zero point."""

    node: onnx.NodeProto
    low: int
    high: int
    scale: Array
    zero_point: Array

    @property
    def bits(self) -> int:
        """The bits of the integers."""
        return IntGrid.between(self.low, self.high).bits


def snap_weights(model: nn.Module, **_: Any) -> None:
    """Set each weight to the level that torch rounds it to, so that every runtime rounds it to the same one."""
    # torch multiplies by 1 / scale where a runtime divides by the scale. Near a tie the two round apart. Levels are
    # half a step away from any tie, and quantizing is idempotent: the network's output stays.
    layers: Iterator[Any] = model.modules()
    for layer in layers:
        quantizer = getattr(layer, INSIDE, None)
        if quantizer is not None and is_plain(quantizer):
            with torch.no_grad():
                layer.weight.copy_(quantizer(layer.weight))


def split_shared(_model: Any, *, onnx_model_path: str, **_: Any) -> None:
    """Give each layer that reads a weight a QuantizeLinear and DequantizeLinear of its own."""
    model = onnx.load(onnx_model_path)
    readers = _readers(model.graph)
    for tensor in encoded(model.graph):
        for back in readers[tensor.node.output[0]]:
            layers = [node for node in readers[back.output[0]] if back.output[0] in node.input[1:2]]
            for number, layer in enumerate(layers[1:], start=2):
                _split_off(model.graph, tensor, back, layer, f"_{number}")
    onnx.save(model, onnx_model_path)


def _split_off(
    graph: onnx.GraphProto, tensor: Encoded, back: onnx.NodeProto, layer: onnx.NodeProto, suffix: str
) -> None:
    """Copy a QuantizeLinear and its DequantizeLinear, `back`, for one layer."""
    copies: list[onnx.NodeProto] = []
    for node in (tensor.node, back):
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.name, copy.output[0] = node.name + suffix, node.output[0] + suffix
        copies.append(copy)
    copies[1].input[0] = copies[0].output[0]
    layer.input[1] = copies[1].output[0]
    # MQBench keeps the ends of integers outside the file, by the name of the QuantizeLinear.
    convert_deploy.qmin_max_dict[copies[0].name] = (tensor.low, tensor.high)
    # ONNX wants nodes in topological order. Reversed, the QuantizeLinear ends up before its DequantizeLinear.
    for copy in reversed(copies):
        graph.node.insert(list(graph.node).index(tensor.node) + 1, copy)


def clip_narrow(_model: Any, *, onnx_model_path: str, **_: Any) -> None:
    """Put an integer Clip behind each QuantizeLinear whose 8-bit type holds more integers than the grid."""
    model = onnx.load(onnx_model_path)
    readers = _readers(model.graph)
    for tensor in encoded(model.graph):
        output = tensor.node.output[0]
        kind = np.uint8 if tensor.low == 0 else np.int8
        full = (tensor.low, tensor.high) in ((0, 255), (-128, 127))
        if not full and not any(reader.op_type == "Clip" for reader in readers[output]):
            _insert_clip(model.graph, tensor, kind)
    onnx.save(model, onnx_model_path)


def _insert_clip(graph: onnx.GraphProto, tensor: Encoded, kind: type[np.integer[Any]]) -> None:
    name, output = tensor.node.name, tensor.node.output[0]
    ends = {f"{output}_{end}": value for end, value in (("low", tensor.low), ("high", tensor.high))}
    for node in _readers(graph)[output]:
        for place, source in enumerate(node.input):
            if source == output:
                node.input[place] = f"{output}_clipped"
    graph.initializer.extend(numpy_helper.from_array(np.array(value, kind), end) for end, value in ends.items())
    clip = helper.make_node("Clip", [output, *ends], [f"{output}_clipped"], name=f"{name}_clip")
    graph.node.insert(list(graph.node).index(tensor.node) + 1, clip)


def encoded(graph: onnx.GraphProto) -> Iterator[Encoded]:
    """Yield the tensors that an MQBench Q/DQ file quantizes."""
    constants = _constants(graph)
    for node in list(graph.node):
        if node.op_type == "QuantizeLinear":
            scale, zero_point = (constants[name] for name in node.input[1:3])
            # Fewer than 8 bits exist in MQBench's global dictionary only. The file's type has all of its integers.
            low, high = map(int, convert_deploy.qmin_max_dict.get(node.name, _type_ends(zero_point)))
            scale, zero_point = scale.reshape(-1), zero_point.reshape(-1)
            yield Encoded(node, low, high, scale.astype(np.float64), zero_point.astype(np.int64))


def _type_ends(zero_point: Any) -> tuple[int, int]:
    info = np.iinfo(zero_point.dtype)
    return int(info.min), int(info.max)


def _constants(graph: onnx.GraphProto) -> dict[str, Any]:
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
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
    """Complete SNPE's JSON for Qualcomm's readers: a version, full encodings, and the parameters' encodings.

    MQBench writes activations only, each with its ends but without scale and offset. Encodings of tensors that the file
    does not quantize stay as MQBench wrote them.
    """
    graph = onnx.load(onnx_model_path).graph
    path = Path(onnx_model_path).with_name(f"{model_name}_clip_ranges.json")
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    initializers = {tensor.name for tensor in graph.initializer}
    complete = {tensor.node.input[0]: list(_encodings(tensor)) for tensor in encoded(graph)}
    activations = {name: complete.get(name, written) for name, written in content["activation_encodings"].items()}
    parameters = {name: encodings for name, encodings in complete.items() if name in initializers}
    file = {"version": ENCODINGS, "activation_encodings": activations, "param_encodings": parameters}
    path.write_text(json.dumps(file, indent=4) + "\n", encoding="utf-8")


def _encodings(tensor: Encoded) -> Iterator[Mapping[str, Any]]:
    """Yield one encoding a channel, or one for the whole tensor."""
    symmetric = tensor.low < 0
    for scale, zero_point in zip(tensor.scale.tolist(), tensor.zero_point.tolist(), strict=True):
        # Qualcomm counts from 0: level n is scale * (n + offset). Signed integers start at -2^(bits - 1), even where
        # the narrow range leaves the first one out, as min and max span 2^bits levels.
        offset = -(2 ** (tensor.bits - 1)) if symmetric else -zero_point
        yield {
            "bitwidth": tensor.bits,
            "dtype": "int",
            "is_symmetric": str(symmetric),
            "min": scale * offset,
            "max": scale * (offset + 2**tensor.bits - 1),
            "offset": offset,
            "scale": scale,
        }


def shape_ranges(_model: Any, *, onnx_model_path: str, model_name: str, **_: Any) -> None:
    """Lay OPENVINO's weight ranges along the axis of the output channels. Shaped [C] they broadcast along the last."""
    with _deployed(onnx_model_path, model_name) as model:
        initializers = {tensor.name: tensor for tensor in model.graph.initializer}
        readers = _readers(model.graph)
        for node in model.graph.node:
            weight = initializers.get(node.input[0]) if node.op_type == "FakeQuantize" else None
            if weight is not None:
                axis = 1 if readers[node.output[0]][0].op_type == "ConvTranspose" else 0
                for name in node.input[1:]:
                    _reshape(initializers[name], axis, len(weight.dims))


def keep_levels(_model: Any, *, onnx_model_path: str, model_name: str, **_: Any) -> None:
    """Restore the 128 levels of OPENVINO's 7-bit activations. MQBench doubles any 128 levels, as if of weights."""
    with _deployed(onnx_model_path, model_name) as model:
        initializers = {tensor.name: tensor for tensor in model.graph.initializer}
        for node in model.graph.node:
            low, high = convert_deploy.qmin_max_dict.get(node.name, (0, 0))
            if node.op_type == "FakeQuantize" and high - low + 1 == DOUBLED and node.input[0] not in initializers:
                _halve(node, initializers, int(low))


def _halve(node: onnx.NodeProto, initializers: Mapping[str, onnx.TensorProto], low: int) -> None:
    """Take back MQBench's low -> 2 * low and high -> 2 * high + 1, at the same scale."""
    first, last = (numpy_helper.to_array(initializers[name]).astype(np.float64) for name in node.input[1:3])
    scale = (last - first) / (2 * DOUBLED - 1)
    # first = (2 * low - zero point) * scale, and the activation starts at (low - zero point) * scale.
    start = first - low * scale
    # FakeQuantize has four ends: of its input, and the same ones of its output.
    for name, end in zip(node.input[1:], (start, start + (DOUBLED - 1) * scale) * 2, strict=True):
        initializers[name].CopyFrom(numpy_helper.from_array(end.astype(np.float32), name))
    next(attribute for attribute in node.attribute if attribute.name == "levels").i = DOUBLED


def _reshape(ranges: onnx.TensorProto, axis: int, dims: int) -> None:
    values = numpy_helper.to_array(ranges)
    shape = [1] * dims
    shape[axis] = -1
    if values.ndim == 1 and values.size > 1:
        ranges.CopyFrom(numpy_helper.from_array(values.reshape(shape), ranges.name))


def define_fake_quantize(_model: Any, *, onnx_model_path: str, model_name: str, **_: Any) -> None:
    """Define OPENVINO's FakeQuantize inside the file. OpenVINO reads it as before, and other runtimes can run it."""
    with _deployed(onnx_model_path, model_name) as model:
        uses = any(node.domain == DOMAIN for node in model.graph.node)
        if uses and not any(function.domain == DOMAIN for function in model.functions):
            model.functions.append(onnx.parser.parse_function(FAKE_QUANTIZE))
        if uses and not any(opset.domain == DOMAIN for opset in model.opset_import):
            model.opset_import.append(helper.make_opsetid(DOMAIN, 1))


@contextmanager
def _deployed(onnx_model_path: str, model_name: str) -> Generator[onnx.ModelProto]:
    """Load the file to deploy, and save it afterwards."""
    path = Path(onnx_model_path).with_name(f"{model_name}_deploy_model.onnx")
    model = onnx.load(path)
    yield model
    onnx.save(model, path)
