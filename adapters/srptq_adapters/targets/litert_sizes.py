"""The shapes of all values of an ONNX file, for images of one size."""

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, ValueInfoProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from srptq_adapters.targets.litert_file import Values
from srptq_adapters.targets.onnx_graph import attribute
from srptq_plugin.graph.types import Size

FOLDED = ("Add", "Cast", "Concat", "Div", "Floor", "Gather", "Mul", "Slice", "Squeeze", "Sub", "Unsqueeze")
"""Operations that compute sizes from sizes."""


def with_shapes(model: ModelProto, size: Size, *, fixed: bool) -> ModelProto:
    """Return a copy of a model with the shapes of all values.

    Args:
        size: The size of images.
        fixed: Whether it is the only one, so that sizes are constants.
    """
    shaped = ModelProto()
    shaped.CopyFrom(model)
    del shaped.graph.value_info[:]
    for dimension, length in zip(shaped.graph.input[0].type.tensor_type.shape.dim, size, strict=True):
        dimension.Clear()
        dimension.dim_value = length
    for output in shaped.graph.output:
        output.type.tensor_type.ClearField("shape")
    shaped = onnx.shape_inference.infer_shapes(shaped, data_prop=True)
    return _with_constant_sizes(shaped) if fixed else shaped


def lengths(value: ValueInfoProto) -> tuple[int, ...]:
    """Return the shape of a value. Unknown lengths are 0."""
    return tuple(dimension.dim_value for dimension in value.type.tensor_type.shape.dim)


def _with_constant_sizes(model: ModelProto) -> ModelProto:
    """Return a model in which constants stand for the results of Shape, and of operations on constants alone."""
    shapes = {value.name: lengths(value) for value in (*model.graph.input, *model.graph.value_info)}
    known: dict[str, Values] = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    stored, rest = set(known), list[NodeProto]()
    for node in model.graph.node:
        inputs = [value for value in node.input if value]
        if node.op_type == "Shape" and all(shapes.get(node.input[0], (0,))):
            part = slice(attribute(node, "start", None), attribute(node, "end", None))
            known[node.output[0]] = np.array(shapes[node.input[0]][part], np.int64)
        elif node.op_type in FOLDED and all(value in known for value in inputs):
            known |= _evaluate(model, node, {value: known[value] for value in inputs})
        else:
            rest.append(node)
    del model.graph.node[:]
    model.graph.node.extend(rest)
    new = (numpy_helper.from_array(values, name) for name, values in known.items() if name not in stored)
    model.graph.initializer.extend(new)
    return onnx.shape_inference.infer_shapes(model, data_prop=True)


def _evaluate(model: ModelProto, node: NodeProto, inputs: Mapping[str, Values]) -> Mapping[str, Values]:
    """Return what a node computes from constants, by ONNX's own evaluator."""
    kinds = {name: helper.np_dtype_to_tensor_dtype(values.dtype) for name, values in inputs.items()}
    infos = [helper.make_tensor_value_info(name, kinds[name], values.shape) for name, values in inputs.items()]
    results = [helper.make_empty_tensor_value_info(name) for name in node.output]
    single = helper.make_model(helper.make_graph([node], "sizes", infos, results), opset_imports=model.opset_import)
    outputs = ReferenceEvaluator(single).run(None, dict(inputs))
    return {name: np.asarray(values) for name, values in zip(node.output, outputs, strict=True)}
