"""ONNX files that compute in half precision, apart from the images that they read and write."""

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from srptq_adapters.targets.onnx_graph import OnnxGraph
from srptq_plugin.deploy.qdq import replace_nodes
from srptq_plugin.errors import SrptqError, short

LARGEST = 65504.0
"""The largest number of half precision."""
QUANTIZERS = ("QuantizeLinear", "DequantizeLinear")
MEASURING = ("Shape", "Size")
SIZES = {"Resize": (1, 2)}
"""Inputs that are factors of sizes, which keep single precision."""


def to_half_precision(model: ModelProto) -> None:
    """Convert a Q/DQ file in place.

    Raises:
        SrptqError: A constant of the network is larger than any number of half precision.
    """
    image, output = model.graph.input[0].name, model.graph.output[0].name
    converter = _Converter(model)
    nodes = [new for node in converter.graph.nodes for new in converter.converted(node)]
    inner = {image: f"{image}_half", output: f"{output}_half"}
    for node in nodes:
        node.input[:] = [inner.get(value, value) for value in node.input]
        node.output[:] = [inner.get(value, value) for value in node.output]
    first = _cast(image, inner[image], TensorProto.FLOAT16)
    last = _cast(inner[output], output, TensorProto.FLOAT)
    replace_nodes(model, [first, *nodes, last])
    onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)


class _Converter:
    """Finds all that the image decides, and gives it constants of half precision."""

    def __init__(self, model: ModelProto) -> None:
        self._model, self.graph = model, OnnxGraph(model.graph)
        inferred = onnx.shape_inference.infer_shapes(model).graph
        values = (*inferred.value_info, *inferred.input, *inferred.output)
        self._singles = {value.name for value in values if value.type.tensor_type.elem_type == TensorProto.FLOAT}
        self._half = {model.graph.input[0].name}
        self._constants: dict[str, str] = {}

    def converted(self, node: NodeProto) -> Iterator[NodeProto]:
        """Yield a node that computes in half precision if it did in single, with casts before it if it needs them."""
        reads = node.op_type in QUANTIZERS or not self._half.isdisjoint(node.input)
        if reads and node.op_type not in MEASURING:
            for index, value in enumerate(node.input):
                if index in SIZES.get(node.op_type, ()) or value in self._half:
                    continue
                constant = self.graph.constant(value)
                if constant is not None and constant.dtype == np.float32:
                    node.input[index] = self._halved(value, constant)
                elif constant is None and value in self._singles:
                    yield _cast(value, f"{node.output[0]}_input_{index}", TensorProto.FLOAT16)
                    node.input[index] = f"{node.output[0]}_input_{index}"
            self._half.update(value for value in node.output if value in self._singles)
        yield node

    def _halved(self, name: str, values: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> str:
        """Store a constant in half precision, once. Infinite ends of clamps become the largest numbers."""
        if name not in self._constants:
            finite = values[np.isfinite(values)]
            if np.any(np.abs(finite[np.abs(finite) < np.finfo(np.float32).max]) > LARGEST):
                raise SrptqError(
                    f"export.float: fp16, but {short(name)} has {np.abs(finite).max():.6g}, and half precision ends at "
                    f"{LARGEST:.0f}; set it to fp32"
                )
            self._constants[name] = f"{name}_half"
            halves = np.clip(values, -LARGEST, LARGEST).astype(np.float16)
            self._model.graph.initializer.append(numpy_helper.from_array(halves, self._constants[name]))
        return self._constants[name]


def _cast(value: str, name: str, kind: int) -> NodeProto:
    return helper.make_node("Cast", [value], [name], f"{name}_cast", to=kind)
