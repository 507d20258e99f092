"""TensorRT's rules for explicit quantization. Each has an id, finds its nodes, and says the cure.

From NVIDIA's developer guide, "Working with Quantized Types", and from reports in TensorRT's issue threads.
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
"""The most dimensions of a reshape or a transpose of integers."""
Check = Callable[[OnnxGraph], Iterator[Finding]]


def check(model: onnx.ModelProto) -> Sequence[Finding]:
    """Check every rule on every node."""
    graph = OnnxGraph(model.graph)
    return [finding for rule in RULES for finding in rule(graph)]


def _finding(rule: str, node: NodeProto, problem: str, cure: str) -> Finding:
    return Finding(rule, node.name or node.output[0], f"{node.op_type}: {problem}", cure)


def foreign_operations(graph: OnnxGraph) -> Iterator[Finding]:
    """Find operations of other runtimes (TRT001): TensorRT wants Q/DQ around float operations."""
    for node in graph.nodes:
        if node.op_type in FOREIGN:
            yield _finding("TRT001", node, "not an operation of TensorRT's", "export Q/DQ around the float operation")


def zero_points(graph: OnnxGraph) -> Iterator[Finding]:
    """Find zero points that are missing (TRT002), not constant int8 (TRT003), or not 0 (TRT004)."""
    for node in graph.of("QuantizeLinear", "DequantizeLinear"):
        if len(node.input) < 3 or not node.input[2]:  # noqa: PLR2004 - tensor, scale, zero point
            yield _finding("TRT002", node, "no zero point, which means uint8", "write a zero point of 0, of type int8")
            continue
        values = graph.constant(node.input[2])
        if values is None:
            yield _finding("TRT003", node, "its zero point is computed", "make it an initializer: 0, of type int8")
        elif values.dtype != np.int8:
            kind = str(values.dtype)
            yield _finding("TRT003", node, f"its zero point is {kind}", "use int8, symmetric around 0")
        elif np.any(values):
            yield _finding("TRT004", node, "its zero point is not 0", "calibrate symmetric ranges: the zero point is 0")


def scales(graph: OnnxGraph) -> Iterator[Finding]:
    """Find activations with several scales (TRT005), and weights whose scales do not follow their outputs (TRT006)."""
    for node in graph.of("QuantizeLinear", "DequantizeLinear"):
        scale = graph.constant(node.input[1])
        if scale is None:
            yield _finding("TRT005", node, "its scale is computed", "make it an initializer")
        elif scale.size > 1 and not graph.is_weight(node):
            yield _finding("TRT005", node, f"{scale.size} scales for an activation", "use one scale a tensor")
        elif scale.size > 1 and attribute(node, "axis", 1) != graph.output_axis(node):
            cure = f"use axis {graph.output_axis(node)}, the output channels"
            yield _finding("TRT006", node, f"scales along axis {attribute(node, 'axis', 1)}", cure)


def float_convolutions(graph: OnnxGraph) -> Iterator[Finding]:
    """Find convolutions with a float input or weight (TRT007). It is severe if only one of them is float."""
    for node in graph.of("Conv", "ConvTranspose"):
        real = [part for n, part in enumerate(("input", "weight")) if not graph.is_dequantized(node.input[n])]
        if real:
            finding = _finding(
                "TRT007", node, f"its {' and its '.join(real)} float", "put Q/DQ on its input and its weight"
            )
            yield replace(finding, severe=len(real) == 1)


def branches_of_adds(graph: OnnxGraph) -> Iterator[Finding]:
    """Find Q/DQ between a convolution and its add (TRT008): the pair breaks their fusion."""
    for node in graph.of("Add"):
        # NVIDIA's catalog of fusions has sums behind convolutions, and none behind transposed ones.
        joined = [n for n, value in enumerate(node.input) if graph.is_lone_conv_behind_qdq(value, ("Conv",))]
        if len(joined) == 1:
            cure = "take the pair between convolution and add away; keep the one on the skip"
            yield _finding("TRT008", node, f"Q/DQ between a convolution and input {joined[0]}", cure)


def activations(graph: OnnxGraph) -> Iterator[Finding]:
    """Find Q/DQ between a convolution and its activation (TRT009)."""
    for node in graph.nodes:
        if node.op_type in ACTIVATIONS and graph.is_lone_conv_behind_qdq(node.input[0]):
            cure = "quantize behind the activation: Q, DQ, Conv, activation, Q, DQ"
            yield _finding("TRT009", node, "Q/DQ between it and its convolution", cure)


def movement(graph: OnnxGraph) -> Iterator[Finding]:
    """Find pixel shuffles of integers (TRT010), and Q/DQ on reshapes of more than five dimensions (TRT011)."""
    for node in graph.of(*MOVING):
        if graph.is_dequantized(node.input[0]):
            cure = "quantize once, at the input of the next convolution"
            yield _finding("TRT010", node, "it reads Q/DQ", cure)
    for node in graph.of("Reshape", "Transpose"):
        dimensions = graph.dimensions(node)
        if dimensions > MOST_DIMENSIONS and (graph.is_dequantized(node.input[0]) or graph.is_quantized(node.output[0])):
            yield _finding("TRT011", node, f"Q/DQ on {dimensions} dimensions", "export pixel shuffle as DepthToSpace")


def concats(graph: OnnxGraph) -> Iterator[Finding]:
    """Find concats with several scales among their inputs (TRT012)."""
    for node in graph.of("Concat"):
        values = {graph.scale_of(value) for value in node.input} - {None}
        if len(values) > 1:
            yield _finding("TRT012", node, f"{len(values)} scales among its inputs", "give its inputs one scale")


def types(graph: OnnxGraph) -> Iterator[Finding]:
    """Find integers that are not int8, or that a Clip keeps in fewer bits than TensorRT computes in (TRT013)."""
    for node in graph.of("QuantizeLinear"):
        kind = attribute(node, "output_dtype", TensorProto.UNDEFINED)
        if kind not in (TensorProto.UNDEFINED, TensorProto.INT8):
            name = helper.tensor_dtype_to_string(kind) if kind in TensorProto.DataType.values() else kind
            yield _finding("TRT013", node, f"output of type {name}", "quantize to int8")
        if any(reader.op_type == "Clip" for reader in graph.readers[node.output[0]]):
            yield _finding("TRT013", node, "a Clip behind it: fewer than 8 bits", "use 8 bits")


def biases(graph: OnnxGraph) -> Iterator[Finding]:
    """Find convolutions with a quantized bias (TRT014)."""
    for node in graph.of("Conv", "ConvTranspose"):
        if len(node.input) > 2 and graph.is_dequantized(node.input[2]):  # noqa: PLR2004 - input, weight, bias
            yield _finding("TRT014", node, "its bias is quantized", "leave the bias float")


RULES: tuple[Check, ...] = (
    *(foreign_operations, zero_points, scales, float_convolutions, branches_of_adds, activations),
    *(movement, concats, types, biases),
)
