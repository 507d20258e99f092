"""An ONNX graph of any exporter, with the questions that lint rules ask."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import GraphProto, NodeProto, TensorProto, numpy_helper

from srptq_plugin.errors import SrptqError, first_line, short

WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_PASSED = ("Clip", "Identity")
"""Operations that pass integers on between Q and DQ."""
EIGHT_BITS = (np.uint8, np.int8)


def attribute(node: NodeProto, name: str, default: Any) -> Any:
    """Return the value of a node's attribute, or the default."""
    values = (onnx.helper.get_attribute_value(entry) for entry in node.attribute if entry.name == name)
    return next(values, default)


class OnnxGraph:
    """A graph with its producers, readers and constants by the name of the value."""

    def __init__(self, graph: GraphProto) -> None:
        self.graph, self.nodes = graph, list(graph.node)
        self.producers = {value: node for node in self.nodes for value in node.output}
        self.readers: dict[str, list[NodeProto]] = defaultdict(list)
        for node in self.nodes:
            for value in node.input:
                self.readers[value].append(node)
        self._initializers = {tensor.name: tensor for tensor in graph.initializer}
        self._shapes = {info.name: info.type.tensor_type.shape.dim for info in (*graph.value_info, *graph.output)}

    def add_constant(self, tensor: TensorProto) -> None:
        """Know an initializer that the file has got since."""
        self._initializers[tensor.name] = tensor

    def of(self, *kinds: str) -> list[NodeProto]:
        """Return the nodes of these operations."""
        return [node for node in self.nodes if node.op_type in kinds]

    def constant(self, value: str) -> Any:
        """Return the values of an initializer or a Constant, or None for a computed value."""
        if value in self._initializers:
            return _array(self._initializers[value], value)
        node = self.producers.get(value)
        if node is None or node.op_type != "Constant":
            return None
        tensor = attribute(node, "value", None)
        return None if tensor is None else _array(tensor, value)

    def is_dequantized(self, value: str) -> bool:
        """Tell whether a value comes from DequantizeLinear."""
        node = self.producers.get(value)
        return node is not None and node.op_type == "DequantizeLinear"

    def is_quantized(self, value: str) -> bool:
        """Tell whether QuantizeLinear reads a value."""
        return any(node.op_type == "QuantizeLinear" for node in self.readers[value])

    def behind_qdq(self, value: str) -> str | None:
        """Return the float value in front of a Q/DQ pair, or None if there is no pair."""
        for kind in ("DequantizeLinear", *_PASSED, "QuantizeLinear"):
            node = self.producers.get(value)
            if node is not None and node.op_type == kind:
                value = node.input[0]
            elif kind not in _PASSED:
                return None
        return value

    def is_lone_conv_behind_qdq(self, value: str, kinds: Sequence[str] = ("Conv", "ConvTranspose")) -> bool:
        """Tell whether a value is a Q/DQ pair on one of these convolutions, and nothing else reads either of them."""
        source = self.behind_qdq(value)
        node = self.producers.get(source) if source else None
        if source is None or node is None or node.op_type not in kinds:
            return False
        return len(self.readers[value]) == 1 and len(self.readers[source]) == 1

    def dequantized(self, value: str) -> Any:
        """Return the constant integers that a value is dequantized from, or None for a computed value."""
        node = self.producers.get(value)
        if node is None or node.op_type != "DequantizeLinear":
            return None
        inner = self._inside(node.input[0])
        quantize = self.producers.get(inner)
        if quantize is None or quantize.op_type != "QuantizeLinear":
            return self.constant(inner)
        return self._quantized(quantize)

    def _inside(self, value: str) -> str:
        """Follow a value back through operations that pass integers on."""
        while value in self.producers and self.producers[value].op_type in _PASSED:
            value = self.producers[value].input[0]
        return value

    def _quantized(self, node: NodeProto) -> Any:
        """Compute the 8-bit integers of a QuantizeLinear on a constant. Return None for other types and values."""
        values, scale, zero = (self.constant(name) for name in (*node.input, "", "")[:3])
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
        """Return how many levels above the lowest a DequantizeLinear reads: 255, or less behind a Clip.

        Return None if there is no level above, and for types of more than 8 bits.
        """
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
        """Return the scale of a Q/DQ pair, or None if it has several or is no pair."""
        name = self.producers[value].input[1] if self.is_dequantized(value) else ""
        scale = self.constant(name)
        return None if scale is None or scale.size != 1 else _number(scale.reshape(()), name)

    def is_weight(self, node: NodeProto) -> bool:
        """Tell whether a Q or DQ works on a constant."""
        value = node.input[0]
        while value in self.producers and self.producers[value].op_type in ("QuantizeLinear", *_PASSED):
            value = self.producers[value].input[0]
        return self.constant(value) is not None

    def output_axis(self, node: NodeProto) -> int:
        """Return the axis of the output channels of the weight behind a Q or DQ."""
        readers = [node]
        while readers and readers[0].op_type not in WEIGHTED:
            readers = self.readers[readers[0].output[0]]
        return 1 if readers and readers[0].op_type in ("ConvTranspose", "MatMul") else 0

    def dimensions(self, node: NodeProto) -> int:
        """Return the number of dimensions after a Reshape or Transpose, or 0 if the file does not tell."""
        if node.op_type == "Transpose":
            return len(attribute(node, "perm", ()))
        shape = self.constant(node.input[1])
        return len(self._shapes.get(node.output[0], ())) if shape is None else int(shape.size)


def _array(tensor: TensorProto, name: str) -> Any:
    """Read a tensor's values. ONNX's checker accepts more bytes than the shape holds."""
    try:
        return numpy_helper.to_array(tensor)
    except Exception as error:  # NumPy, ml_dtypes and ONNX raise errors of their own
        raise SrptqError(f"constant {short(name)!r} cannot be read ({first_line(error)}); export it again") from error


def _number(scale: Any, name: str) -> float:
    """Convert a scale of any float type. ONNX's checker accepts text and complex numbers."""
    try:
        return float(scale)
    except (TypeError, ValueError) as error:
        raise SrptqError(f"the scale {short(name)!r} is no number ({first_line(error)}); export it again") from error
