"""Operations between Q/DQ pairs, rewritten as those that ONNX Runtime has in integers. No value changes."""

from collections.abc import Callable, Mapping

import numpy as np
from onnx import ModelProto, NodeProto, helper, numpy_helper

from srptq_adapters.targets.onnx_graph import OnnxGraph
from srptq_plugin.graph.network import IMAGE_AXES


def to_fusible_operations(model: ModelProto) -> None:
    """Rewrite a Q/DQ file in place.

    A PReLU with one slope becomes a leaky ReLU, the mean of every channel a global average pool, and a factor that is a
    number an integer.
    """
    graph = OnnxGraph(model.graph)
    for node in graph.of(*REWRITES):
        if _runs_in_integers(graph, node):
            REWRITES[node.op_type](graph, node)


def _runs_in_integers(graph: OnnxGraph, node: NodeProto) -> bool:
    return any(graph.is_dequantized(value) for value in node.input) and graph.is_quantized(node.output[0])


def _to_leaky_relu(graph: OnnxGraph, node: NodeProto) -> None:
    slopes = graph.constant(node.input[1])
    if slopes is not None and slopes.size == 1:
        node.op_type = "LeakyRelu"
        del node.input[1]
        node.attribute.append(helper.make_attribute("alpha", float(slopes.item())))


def _to_global_average_pool(graph: OnnxGraph, node: NodeProto) -> None:
    axes = graph.constant(node.input[1]) if len(node.input) > 1 else None
    if axes is not None and sorted(axis % IMAGE_AXES for axis in axes.tolist()) == [2, 3]:
        node.op_type = "GlobalAveragePool"
        del node.input[1]
        del node.attribute[:]


def _quantize_factor(graph: OnnxGraph, node: NodeProto) -> None:
    """Store a number as the integer 1 with the number's magnitude as scale, or as -1 with a zero point of 1."""
    for index, value in enumerate(node.input):
        factor = graph.constant(value)
        if factor is not None and factor.size == 1 and factor.item():
            negative = factor.item() < 0
            constants = {
                "integer": np.full(factor.shape, not negative, np.uint8),
                "scale": np.array(abs(factor.item()), np.float32),
                "zero_point": np.array(negative, np.uint8),
            }
            base = f"{node.output[0]}_factor"
            for name, values in constants.items():
                graph.graph.initializer.append(numpy_helper.from_array(values, f"{base}_{name}"))
            reader = helper.make_node("DequantizeLinear", [f"{base}_{name}" for name in constants], [base])
            graph.graph.node.insert(0, reader)
            node.input[index] = base


REWRITES: Mapping[str, Callable[[OnnxGraph, NodeProto], None]] = {
    "PRelu": _to_leaky_relu,
    "ReduceMean": _to_global_average_pool,
    "Mul": _quantize_factor,
}
