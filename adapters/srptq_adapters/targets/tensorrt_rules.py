"""TensorRT's rules for explicit quantization, each with its id: what the file says, and what would be right.

From NVIDIA's developer guide, "Working with Quantized Types", and what its issue threads report.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper

from srptq_adapters.targets.onnx_graph import OnnxGraph, attribute
from srptq_plugin.plugins.protocols import Finding

ACTIVATIONS = frozenset({"Relu", "LeakyRelu", "PRelu", "Clip", "Sigmoid", "Tanh"})
FOREIGN = frozenset(
    {"QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger", "DynamicQuantizeLinear", "QLinearAdd"}
    | {"QGemm", "QLinearConcat", "QLinearLeakyRelu"}
)
MOVING = frozenset({"DepthToSpace", "SpaceToDepth"})
MOST_DIMENSIONS = 5
Check = Callable[[OnnxGraph], Iterator[Finding]]


def check(model: onnx.ModelProto) -> Sequence[Finding]:
    """Every rule on every node."""
    graph = OnnxGraph(model.graph)
    return [finding for rule in RULES for finding in rule(graph)]


def _found(rule: str, node: NodeProto, problem: str, cure: str) -> Finding:
    return Finding(rule, node.name or node.output[0], f"{node.op_type}: {problem}", cure)


def foreign_operations(graph: OnnxGraph) -> Iterator[Finding]:
    """TRT001: integers by Q/DQ around float operations, not by operations of another runtime."""
    for node in graph.nodes:
        if node.op_type in FOREIGN:
            yield _found("TRT001", node, "not an operation of TensorRT's", "export Q/DQ around the float operation")


def zero_points(graph: OnnxGraph) -> Iterator[Finding]:
    """TRT002, TRT003, TRT004: the zero point is written, of type int8, and 0."""
    for node in graph.of("QuantizeLinear", "DequantizeLinear"):
        if len(node.input) < 3 or not node.input[2]:  # noqa: PLR2004 - tensor, scale, zero point
            yield _found("TRT002", node, "no zero point, which means uint8", "write a zero point of 0, of type int8")
            continue
        values = graph.constant(node.input[2])
        if values is None:
            yield _found("TRT003", node, "its zero point is computed", "make it an initializer: 0, of type int8")
        elif values.dtype != np.int8:
            kind = str(values.dtype)
            yield _found("TRT003", node, f"its zero point is {kind}", "use int8, symmetric around 0")
        elif np.any(values):
            yield _found("TRT004", node, "its zero point is not 0", "calibrate symmetric ranges: the zero point is 0")


def scales(graph: OnnxGraph) -> Iterator[Finding]:
    """TRT005, TRT006: one scale for an activation; scales of weights along their output channels."""
    for node in graph.of("QuantizeLinear", "DequantizeLinear"):
        scale = graph.constant(node.input[1])
        if scale is None:
            yield _found("TRT005", node, "its scale is computed", "make it an initializer")
        elif scale.size > 1 and not graph.is_weight(node):
            yield _found("TRT005", node, f"{scale.size} scales for an activation", "use one scale a tensor")
        elif scale.size > 1 and attribute(node, "axis", 1) != graph.output_axis(node):
            cure = f"use axis {graph.output_axis(node)}, that of the output channels"
            yield _found("TRT006", node, f"scales along axis {attribute(node, 'axis', 1)}", cure)


def float_convolutions(graph: OnnxGraph) -> Iterator[Finding]:
    """TRT007: a convolution's input and weight come from DequantizeLinear; severe where only one of them does."""
    for node in graph.of("Conv", "ConvTranspose"):
        real = [what for n, what in enumerate(("input", "weight")) if not graph.is_dequantized(node.input[n])]
        if real:
            found = _found(
                "TRT007", node, f"its {' and its '.join(real)} float", "put Q/DQ on its input and its weight"
            )
            yield replace(found, severe=len(real) == 1)


def branches_of_adds(graph: OnnxGraph) -> Iterator[Finding]:
    """TRT008: Q/DQ on the skip of an add only: a pair behind the convolution breaks their fusion."""
    for node in graph.of("Add"):
        joined = [place for place, value in enumerate(node.input) if graph.is_lone_conv_behind_qdq(value)]
        if len(joined) == 1:
            cure = "take the pair between convolution and add away; keep the one on the skip"
            yield _found("TRT008", node, f"Q/DQ between a convolution and input {joined[0]}", cure)


def activations(graph: OnnxGraph) -> Iterator[Finding]:
    """TRT009: no Q/DQ between a convolution and its activation."""
    for node in graph.nodes:
        if node.op_type in ACTIVATIONS and graph.is_lone_conv_behind_qdq(node.input[0]):
            cure = "quantize behind the activation: Q, DQ, Conv, activation, Q, DQ"
            yield _found("TRT009", node, "Q/DQ between it and its convolution", cure)


def movement(graph: OnnxGraph) -> Iterator[Finding]:
    """TRT010, TRT011: pixel shuffle on float edges; no Q/DQ on a reshape of more than five dimensions."""
    for node in graph.of(*MOVING):
        if graph.is_dequantized(node.input[0]):
            cure = "quantize once, at the input of the next convolution"
            yield _found("TRT010", node, "it reads Q/DQ", cure)
    for node in graph.of("Reshape", "Transpose"):
        dimensions = graph.dimensions(node)
        if dimensions > MOST_DIMENSIONS and (graph.is_dequantized(node.input[0]) or graph.is_quantized(node.output[0])):
            yield _found("TRT011", node, f"Q/DQ on {dimensions} dimensions", "export pixel shuffle as DepthToSpace")


def concats(graph: OnnxGraph) -> Iterator[Finding]:
    """TRT012: the inputs of a concat have one scale, where they are quantized."""
    for node in graph.of("Concat"):
        found = [graph.scale_of(value) for value in node.input]
        known = {scale for scale in found if scale is not None}
        if len(known) > 1:
            yield _found("TRT012", node, f"{len(known)} scales among its inputs", "give its inputs one scale")


def types(graph: OnnxGraph) -> Iterator[Finding]:
    """TRT013: integers are int8; a Clip between Q and DQ keeps fewer bits than TensorRT computes in."""
    for node in graph.of("QuantizeLinear"):
        kind = attribute(node, "output_dtype", TensorProto.UNDEFINED)
        if kind not in (TensorProto.UNDEFINED, TensorProto.INT8):
            name = helper.tensor_dtype_to_string(kind) if kind in TensorProto.DataType.values() else kind
            yield _found("TRT013", node, f"output of type {name}", "quantize to int8")
        if any(reader.op_type == "Clip" for reader in graph.readers[node.output[0]]):
            yield _found("TRT013", node, "a Clip behind it: fewer than 8 bits", "use 8 bits")


def biases(graph: OnnxGraph) -> Iterator[Finding]:
    """TRT014: a convolution's bias is float, or constant."""
    for node in graph.of("Conv", "ConvTranspose"):
        if len(node.input) > 2 and graph.is_dequantized(node.input[2]):  # noqa: PLR2004 - input, weight, bias
            yield _found("TRT014", node, "its bias is quantized", "leave the bias float")


RULES: tuple[Check, ...] = (
    *(foreign_operations, zero_points, scales, float_convolutions, branches_of_adds, activations),
    *(movement, concats, types, biases),
)
