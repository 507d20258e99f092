"""An ONNX graph from wherever, with the questions that rules ask of it."""

from collections import defaultdict
from typing import Any

import numpy as np
import onnx
from onnx import GraphProto, NodeProto, TensorProto, numpy_helper

from srptq_plugin.errors import SrptqError, first_line, short

WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_PASSED = ("Clip", "Identity")
EIGHT_BITS = (np.uint8, np.int8)


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
            return _array(self._initializers[value], value)
        node = self.producers.get(value)
        if node is None or node.op_type != "Constant":
            return None
        tensor = attribute(node, "value", None)
        return None if tensor is None else _array(tensor, value)

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

    def dequantized(self, value: str) -> Any:
        """Return the constant integers that a value is dequantized from; None for what is computed."""
        node = self.producers.get(value)
        if node is None or node.op_type != "DequantizeLinear":
            return None
        inner = self._inside(node.input[0])
        qconfig = self.producers.get(inner)
        if qconfig is None or qconfig.op_type != "QuantizeLinear":
            return self.constant(inner)
        return self._quantized(qconfig)

    def _inside(self, value: str) -> str:
        """Follow a value back through what passes integers on."""
        while value in self.producers and self.producers[value].op_type in _PASSED:
            value = self.producers[value].input[0]
        return value

    def _quantized(self, node: NodeProto) -> Any:
        """Return the 8-bit integers that a QuantizeLinear makes of a constant; None for others and what is computed."""
        values, scale, zero = (self.constant(each) for each in (*node.input, "", "")[:3])
        if values is None or scale is None or zero is None or zero.dtype not in EIGHT_BITS:
            return None
        try:
            shape = [1] * values.ndim
            if scale.size > 1:
                shape[attribute(node, "axis", 1)] = -1
            info = np.iinfo(zero.dtype)
            integers = np.rint(values / scale.reshape(shape)) + zero.reshape(shape)
        except (IndexError, TypeError, ValueError) as error:
            raise SrptqError(
                f"the scales of {short(node.output[0])!r} do not fit its values ({first_line(error)}); export it again"
            ) from error
        return np.clip(integers, info.min, info.max).astype(zero.dtype)

    def largest(self, node: NodeProto) -> int | None:
        """Return the largest integer that a DequantizeLinear reads, counted from 0; None for 0 and more than 8 bits."""
        zero = self.constant(node.input[2]) if len(node.input) > 2 else np.zeros((), np.uint8)  # noqa: PLR2004
        if zero is None or zero.dtype not in EIGHT_BITS:
            return None
        info, clip = np.iinfo(zero.dtype), self.producers.get(node.input[0])
        clipped = clip is not None and clip.op_type == "Clip" and len(clip.input) > 2  # noqa: PLR2004
        upper = self.constant(clip.input[2]) if clip is not None and clipped else None
        if upper is not None and (upper.size != 1 or upper.dtype != zero.dtype):
            raise SrptqError(f"the Clip before {short(node.output[0])!r} has no upper end of its type; export it again")
        return int(info.max if upper is None else upper.item()) - int(info.min) or None

    def scale_of(self, value: str) -> float | None:
        """The scale of a Q/DQ pair with one."""
        name = self.producers[value].input[1] if self.is_dequantized(value) else ""
        scale = self.constant(name)
        return None if scale is None or scale.size != 1 else _number(scale.reshape(()), name)

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


def _array(tensor: TensorProto, name: str) -> Any:
    """Read a tensor's values. ONNX's checker accepts more bytes than the shape holds."""
    try:
        return numpy_helper.to_array(tensor)
    except Exception as error:  # NumPy's, ml_dtypes' and ONNX's own, by what is wrong
        raise SrptqError(f"constant {short(name)!r} cannot be read ({first_line(error)}); export it again") from error


def _number(scale: Any, name: str) -> float:
    """Convert a scale of any float type. ONNX's checker accepts text and complex numbers."""
    try:
        return float(scale)
    except (TypeError, ValueError) as error:
        raise SrptqError(f"the scale {short(name)!r} is no number ({first_line(error)}); export it again") from error
