"""Operations on sizes and other constants, which are computed in Python so that sizes stay symbols."""

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from onnx import TensorProto

from srptq_plugin.errors import SrptqError
from srptq_plugin.models.onnx_import.operation import Numbers, Operation

LARGEST = 2**26
"""The most values of a constant that an operation makes. A few bytes of a file could ask for any number."""
FLOATS = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16})
"""ONNX's numbers for the types of floats."""
ShapeFunction = Callable[..., Numbers]


def numbers(values: Sequence[Any]) -> Numbers:
    """Return a one-dimensional array of integers, which may be symbolic."""
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def integers(array: Numbers | None) -> list[Any]:
    """Return sizes as a list of integers, which may be symbolic. Empty for None."""
    values = [] if array is None else array.reshape(-1).tolist()
    return [int(value) if isinstance(value, float) else value for value in values]


def _elementwise(function: Callable[..., Any]) -> ShapeFunction:
    def apply(_operation: Operation, *arrays: Numbers) -> Numbers:
        columns = [array.astype(object) for array in arrays]
        return np.asarray(np.frompyfunc(function, len(columns), 1)(*columns), dtype=object)

    return apply


def _divide(left: Any, right: Any) -> Any:
    # ONNX rounds toward zero and Python down. Sizes are not negative.
    whole = all(isinstance(value, int | torch.SymInt) for value in (left, right))
    return left // right if whole else left / right


def _floor(value: Any) -> Any:
    return _to_float(math.floor(value))


def _ceil(value: Any) -> Any:
    return _to_float(math.ceil(value))


def _where(condition: Any, left: Any, right: Any) -> Any:
    return left if condition else right


def _cast(operation: Operation, array: Numbers) -> Numbers:
    to = operation.get("to")
    if to in FLOATS:
        return _elementwise(_to_float)(operation, array)
    return _elementwise(bool if to == TensorProto.BOOL else _to_integer)(operation, array)


def _to_float(value: Any) -> Any:
    return torch.sym_float(value) if isinstance(value, torch.SymInt) else float(value)


def _to_integer(value: Any) -> Any:
    return torch.sym_int(value) if isinstance(value, torch.SymFloat | torch.SymInt) else int(value)


def _concat(operation: Operation, *arrays: Numbers) -> Numbers:
    return np.concatenate(arrays, axis=operation.get("axis", 0))


def _gather(operation: Operation, array: Numbers, indices: Numbers) -> Numbers:
    taken = np.take(array, indices.astype(np.int64), axis=operation.get("axis", 0))
    return np.asarray(taken, dtype=array.dtype)


def _slice(operation: Operation, array: Numbers, *bounds: Numbers | None) -> Numbers:
    starts, ends, axes, steps = slice_bounds(operation, bounds)
    index = [slice(None)] * array.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        # An end before the first value is -inf in ONNX, which only None says in Python.
        index[axis] = slice(start, None if step < 0 and end < -array.shape[axis] else end, step)
    return array[tuple(index)]


def slice_bounds(
    operation: Operation, bounds: Sequence[Numbers | None]
) -> tuple[list[Any], list[Any], list[int], list[int]]:
    """Return the starts, ends, axes and steps of a slice, from inputs or, in old files, from attributes."""
    given = [integers(array) for array in bounds] + [[]] * (4 - len(bounds))
    starts, ends = given[0] or operation.get("starts", []), given[1] or operation.get("ends", [])
    axes = given[2] or operation.get("axes") or list(range(len(starts)))
    return starts, ends, axes, given[3] or [1] * len(starts)


def axes_of(operation: Operation, array: Numbers | None) -> list[int]:
    """Return the axes of an operation, from an input or, in old files, from an attribute."""
    return integers(array) or operation.get("axes", [])


def _unsqueeze(operation: Operation, array: Numbers, axes: Numbers | None = None) -> Numbers:
    return np.expand_dims(array, tuple(axes_of(operation, axes)))


def _squeeze(operation: Operation, array: Numbers, axes: Numbers | None = None) -> Numbers:
    return np.squeeze(array, tuple(axes_of(operation, axes)) or None)


def _reshape(_operation: Operation, array: Numbers, shape: Numbers) -> Numbers:
    return array.reshape(integers(shape))


def _expand(operation: Operation, array: Numbers, shape: Numbers) -> Numbers:
    sizes = np.broadcast_shapes(array.shape, tuple(_bounded(operation, shape)))
    return np.broadcast_to(array, sizes)


def _constant_of_shape(operation: Operation, shape: Numbers) -> Numbers:
    value = operation.get("value", np.zeros(1, np.float32))
    return np.full(_bounded(operation, shape), value.reshape(-1)[0])


def _range(operation: Operation, *bounds: Numbers) -> Numbers:
    start, end, step = (integers(array)[0] for array in bounds)
    _bounded(operation, np.asarray([(end - start) // step]))
    return np.arange(start, end, step)


def _bounded(operation: Operation, shape: Numbers) -> list[int]:
    sizes = integers(shape)
    if math.prod(sizes) > LARGEST:
        raise SrptqError(f"{operation.label} makes a constant of {sizes}, which is more than any network needs")
    return sizes


def _reduce(function: Callable[[Any, Any], Any]) -> ShapeFunction:
    def apply(operation: Operation, array: Numbers, axes: Numbers | None = None) -> Numbers:
        along = tuple(axes_of(operation, axes)) or tuple(range(array.ndim))
        reducer = np.frompyfunc(function, 2, 1)
        result = array.astype(object)
        for axis in sorted((axis % array.ndim for axis in along), reverse=True):
            result = np.asarray(reducer.reduce(result, axis=axis, keepdims=True), dtype=object)
        return result if operation.get("keepdims", 1) else np.squeeze(result, along)

    return apply


def _transpose(operation: Operation, array: Numbers) -> Numbers:
    return array.transpose(operation.get("perm"))


def _identity(_operation: Operation, array: Numbers) -> Numbers:
    return array


FUNCTIONS: Mapping[str, ShapeFunction] = {
    "Abs": _elementwise(abs),
    "Add": _elementwise(operator.add),
    "Cast": _cast,
    "Ceil": _elementwise(_ceil),
    "Concat": _concat,
    "ConstantOfShape": _constant_of_shape,
    "Div": _elementwise(_divide),
    "Equal": _elementwise(operator.eq),
    "Expand": _expand,
    "Floor": _elementwise(_floor),
    "Gather": _gather,
    "Greater": _elementwise(operator.gt),
    "Identity": _identity,
    "Less": _elementwise(operator.lt),
    "Max": _elementwise(max),
    "Min": _elementwise(min),
    "Mod": _elementwise(operator.mod),
    "Mul": _elementwise(operator.mul),
    "Neg": _elementwise(operator.neg),
    "Not": _elementwise(operator.not_),
    "Range": _range,
    "ReduceProd": _reduce(operator.mul),
    "ReduceSum": _reduce(operator.add),
    "Reshape": _reshape,
    "Slice": _slice,
    "Squeeze": _squeeze,
    "Sub": _elementwise(operator.sub),
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
    "Where": _elementwise(_where),
}
"""The operations on constants and sizes, by ONNX's name. They read arrays only."""
