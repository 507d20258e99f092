"""An ONNX graph from wherever, with the questions that rules ask of it."""

from collections import defaultdict
from typing import Any

import onnx
from onnx import GraphProto, NodeProto, numpy_helper

WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_PASSED = ("Clip", "Identity")


def attribute(node: NodeProto, name: str, default: Any) -> Any:
    """An attribute's value."""
    return next((onnx.helper.get_attribute_value(each) for each in node.attribute if each.name == name), default)


class OnnxGraph:
    """Producers, readers and constants by name."""

    def __init__(self, graph: GraphProto) -> None:
        self.graph, self.nodes = graph, list(graph.node)
        self.producers = {value: node for node in self.nodes for value in node.output}
        self.readers: dict[str, list[NodeProto]] = defaultdict(list)
        for node in self.nodes:
            for value in node.input:
                self.readers[value].append(node)
        self._initializers = {each.name: each for each in graph.initializer}
        self._shapes = {each.name: each.type.tensor_type.shape.dim for each in (*graph.value_info, *graph.output)}

    def of(self, *kinds: str) -> list[NodeProto]:
        """The nodes of these operations."""
        return [node for node in self.nodes if node.op_type in kinds]

    def constant(self, value: str) -> Any:
        """An initializer's or a Constant's values; none for what is computed."""
        if value in self._initializers:
            return numpy_helper.to_array(self._initializers[value])
        node = self.producers.get(value)
        if node is None or node.op_type != "Constant":
            return None
        tensor = attribute(node, "value", None)
        return None if tensor is None else numpy_helper.to_array(tensor)

    def is_dequantized(self, value: str) -> bool:
        """Whether a value comes from DequantizeLinear."""
        node = self.producers.get(value)
        return node is not None and node.op_type == "DequantizeLinear"

    def is_quantized(self, value: str) -> bool:
        """Whether a value is read by QuantizeLinear."""
        return any(node.op_type == "QuantizeLinear" for node in self.readers[value])

    def behind_qdq(self, value: str) -> str | None:
        """The float value that a Q/DQ pair was put on."""
        for kind in ("DequantizeLinear", *_PASSED, "QuantizeLinear"):
            node = self.producers.get(value)
            if node is not None and node.op_type == kind:
                value = node.input[0]
            elif kind not in _PASSED:
                return None
        return value

    def is_lone_conv_behind_qdq(self, value: str) -> bool:
        """Whether a value is a Q/DQ pair on a convolution, and neither feeds anything else."""
        found = self.behind_qdq(value)
        node = self.producers.get(found) if found else None
        if found is None or node is None or node.op_type not in ("Conv", "ConvTranspose"):
            return False
        return len(self.readers[value]) == 1 and len(self.readers[found]) == 1

    def scale_of(self, value: str) -> float | None:
        """The scale of a Q/DQ pair with one."""
        scale = self.constant(self.producers[value].input[1]) if self.is_dequantized(value) else None
        return None if scale is None or scale.size != 1 else float(scale.reshape(()))

    def is_weight(self, node: NodeProto) -> bool:
        """Whether a Q or DQ works on a constant."""
        value = node.input[0]
        while value in self.producers and self.producers[value].op_type in ("QuantizeLinear", *_PASSED):
            value = self.producers[value].input[0]
        return self.constant(value) is not None

    def output_axis(self, node: NodeProto) -> int:
        """Along which axis the weight behind a Q or DQ has its output channels."""
        readers = [node]
        while readers and readers[0].op_type not in WEIGHTED:
            readers = self.readers[readers[0].output[0]]
        return 1 if readers and readers[0].op_type in ("ConvTranspose", "MatMul") else 0

    def dimensions(self, node: NodeProto) -> int:
        """How many dimensions a reshape or a transpose gives; 0 where the file does not say."""
        if node.op_type == "Transpose":
            return len(attribute(node, "perm", ()))
        shape = self.constant(node.input[1])
        return len(self._shapes.get(node.output[0], ())) if shape is None else int(shape.size)
