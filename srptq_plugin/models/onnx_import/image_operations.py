"""Operations on images and feature maps, in torch."""

import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from srptq_plugin.errors import SrptqError
from srptq_plugin.models.onnx_import.operation import Numbers, Operation
from srptq_plugin.models.onnx_import.resizing import RESIZING
from srptq_plugin.models.onnx_import.shape_operations import FLOATS, axes_of, integers, numbers, slice_bounds
from srptq_plugin.models.onnx_import.windows import WINDOWS

Operand = Tensor | Numbers | None
"""A value that an operation reads: a feature map or a parameter, or numbers. None if it is left out."""
Result = Tensor | tuple[Tensor, ...] | Numbers
ImageFunction = Callable[..., Result]
DTYPES = {2: torch.uint8, 3: torch.int8, 6: torch.int32, 7: torch.int64, 9: torch.bool}
"""ONNX's numbers for the types that are not floats."""
END = 2**31 - 1
"""The end of a slice from which on exporters mean the last value."""
LARGEST_FLOAT = torch.finfo(torch.float32).max
FIRST_AXIS_OF_SOFTMAX = 13
"""The opset since which softmax is along one axis."""


def _unary(function: Callable[[Tensor], Tensor]) -> ImageFunction:
    def apply(_operation: Operation, x: Tensor, *_: Operand) -> Tensor:
        return function(x)

    return apply


def _binary(function: Callable[[Any, Any], Any]) -> ImageFunction:
    def apply(_operation: Operation, left: Operand, right: Operand) -> Tensor:
        return function(_operand(left, right), _operand(right, left))

    return apply


def _folded(function: Callable[[Tensor, Tensor], Tensor]) -> ImageFunction:
    """Return an operation on any number of inputs, which are combined one after another."""

    def apply(_operation: Operation, *operands: Operand) -> Tensor:
        shared = next(operand for operand in operands if isinstance(operand, Tensor))
        tensors = [as_tensor(operand, shared) for operand in operands]
        result = tensors[0]
        for tensor in tensors[1:]:
            result = function(result, tensor)
        return result

    return apply


def _operand(value: Operand, other: Operand) -> Any:
    """Return a single number as Python's, which the plan knows as a factor, and everything else as a tensor."""
    axes = other.ndim if other is not None else 0
    if value is None or isinstance(value, Tensor):
        return value
    return value.reshape(-1).tolist()[0] if value.size == 1 and value.ndim <= axes else as_tensor(value, other)


def as_tensor(value: Operand, like: Operand) -> Tensor:
    """Return numbers as a tensor of the type of another operand."""
    if isinstance(value, Tensor):
        return value
    dtype = like.dtype if isinstance(like, Tensor) and like.is_floating_point() else None
    return torch.tensor([] if value is None else value.tolist(), dtype=dtype)


def _clip(operation: Operation, x: Tensor, low: Operand = None, high: Operand = None) -> Tensor:
    bounds = [_number(low, operation.get("min")), _number(high, operation.get("max"))]
    # Exporters write torch's clamp without a bound as the largest float.
    least, most = (
        None if bound is None or abs(bound) > torch.finfo(torch.float32).max / 2 else bound for bound in bounds
    )
    if least is None and most is None:
        return x
    return x.relu() if least == 0 and most is None else x.clamp(least, most)


def _number(value: Operand, default: float | None) -> float | None:
    return default if value is None else float(value.reshape(-1)[0])


def _hard_sigmoid(operation: Operation, x: Tensor) -> Tensor:
    slope, offset = operation.get("alpha", 0.2), operation.get("beta", 0.5)
    if offset == 0.5 and math.isclose(slope, 1 / 6, rel_tol=1e-4):  # noqa: PLR2004 - torch's own function
        return functional.hardsigmoid(x)
    return (x * slope + offset).clamp(0, 1)


def _softmax(operation: Operation, x: Tensor) -> Tensor:
    if operation.opset >= FIRST_AXIS_OF_SOFTMAX:
        return x.softmax(operation.get("axis", -1))
    axis = operation.get("axis", 1) % x.ndim
    return x.softmax(axis) if axis == x.ndim - 1 else x.flatten(axis).softmax(-1).reshape(x.shape)


def _gelu(operation: Operation, x: Tensor) -> Tensor:
    return functional.gelu(x, approximate=operation.get("approximate", "none"))


def _prelu(_operation: Operation, x: Tensor, slope: Operand) -> Tensor:
    return torch.where(x >= 0, x, x * as_tensor(slope, x))


def _cast(operation: Operation, x: Tensor) -> Tensor:
    to = operation.get("to")
    return x.float() if to in FLOATS else x.to(DTYPES.get(to, torch.int64))


def _where(_operation: Operation, condition: Operand, left: Operand, right: Operand) -> Tensor:
    like = left if isinstance(left, Tensor) else right
    return torch.where(as_tensor(condition, None), as_tensor(left, like), as_tensor(right, like))


def _concat(operation: Operation, *parts: Operand) -> Tensor:
    like = next(part for part in parts if isinstance(part, Tensor))
    return torch.cat([as_tensor(part, like) for part in parts], operation.get("axis"))


def _split(operation: Operation, x: Tensor, given: Numbers | None = None) -> tuple[Tensor, ...]:
    axis, sizes = operation.get("axis", 0), integers(given) or operation.get("split", [])
    if not sizes:
        return x.split(-(-x.shape[axis] // len(operation.outputs)), axis)
    return x.split(sizes, axis)


def _slice(operation: Operation, x: Tensor, *bounds: Numbers | None) -> Tensor:
    for start, end, axis, step in zip(*slice_bounds(operation, bounds), strict=True):
        if step < 0:
            raise SrptqError(f"{operation.label} reverses an axis, which is not read; export without it")
        last = None if isinstance(end, int) and end >= END else end
        x = x[(slice(None),) * (axis % x.ndim) + (slice(start, last, step),)]
    return x


def _gather(operation: Operation, x: Operand, indices: Operand) -> Tensor:
    axis = operation.get("axis", 0)
    source = as_tensor(x, None)
    if isinstance(indices, Tensor) or indices is None:
        raise SrptqError(f"{operation.label} reads indices that depend on the image; give the network as a module")
    if indices.ndim == 0:
        return source.select(axis, integers(indices)[0])
    taken = source.index_select(axis, torch.tensor(integers(indices)))
    return taken.unflatten(axis, indices.shape) if indices.ndim > 1 else taken


def _reshape(operation: Operation, x: Tensor, shape: Numbers | None = None) -> Tensor:
    sizes = integers(shape) or operation.get("shape", [])
    kept = [x.shape[axis] if size == 0 and isinstance(size, int) else size for axis, size in enumerate(sizes)]
    return x.reshape(sizes if operation.get("allowzero") else kept)


def _flatten(operation: Operation, x: Tensor) -> Tensor:
    axis = operation.get("axis", 1)
    return x.reshape(math.prod(x.shape[:axis]), -1)


def _transpose(operation: Operation, x: Tensor) -> Tensor:
    return x.permute(operation.get("perm") or list(reversed(range(x.ndim))))


def _squeeze(operation: Operation, x: Tensor, axes: Numbers | None = None) -> Tensor:
    along = axes_of(operation, axes)
    return x.squeeze(along) if along else x.squeeze()


def _unsqueeze(operation: Operation, x: Tensor, axes: Numbers | None = None) -> Tensor:
    along = axes_of(operation, axes)
    for axis in sorted(axis % (x.ndim + len(along)) for axis in along):
        x = x.unsqueeze(axis)
    return x


def _expand(_operation: Operation, x: Operand, shape: Numbers) -> Tensor:
    source, sizes = as_tensor(x, None), integers(shape)
    own = [1] * (len(sizes) - source.ndim) + list(source.shape)
    lead = [1] * (source.ndim - len(sizes))
    wanted = [
        mine if isinstance(size, int) and size == 1 else size for mine, size in zip(own, lead + sizes, strict=True)
    ]
    return source.expand(wanted)


def _tile(_operation: Operation, x: Tensor, repeats: Numbers) -> Tensor:
    return x.repeat(integers(repeats))


def _constant_of_shape(operation: Operation, shape: Numbers) -> Tensor:
    value = operation.get("value")
    return torch.full(integers(shape), 0.0 if value is None else value.reshape(-1)[0].item())


def _shape(operation: Operation, x: Tensor) -> Numbers:
    return numbers(list(x.shape)[operation.get("start", 0) : operation.get("end")])


def _size(_operation: Operation, x: Tensor) -> Numbers:
    return numbers([x.numel()]).reshape(())


def _reduce(function: Callable[[Tensor, list[int], bool], Tensor]) -> ImageFunction:
    def apply(operation: Operation, x: Tensor, axes: Numbers | None = None) -> Tensor:
        along = axes_of(operation, axes)
        if not along and operation.get("noop_with_empty_axes"):
            return x
        return function(x, along or list(range(x.ndim)), bool(operation.get("keepdims", 1)))

    return apply


def _global(function: Callable[[Tensor, list[int], bool], Tensor]) -> ImageFunction:
    def apply(_operation: Operation, x: Tensor) -> Tensor:
        return function(x, list(range(2, x.ndim)), True)  # noqa: FBT003 - torch's `keepdim`

    return apply


def _gemm(operation: Operation, left: Tensor, right: Tensor, added: Operand = None) -> Tensor:
    left, right = (side.T if operation.get(name) else side for side, name in ((left, "transA"), (right, "transB")))
    product = left @ right * operation.get("alpha", 1.0)
    return product if added is None else product + as_tensor(added, product) * operation.get("beta", 1.0)


def _einsum(operation: Operation, *operands: Tensor) -> Tensor:
    return torch.einsum(operation.get("equation"), *operands)


def _instance_norm(operation: Operation, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return functional.instance_norm(x, weight=weight, bias=bias, eps=operation.get("epsilon", 1e-5))


def _layer_norm(operation: Operation, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    axis = operation.get("axis", -1)
    if axis % x.ndim != x.ndim - weight.ndim:
        raise SrptqError(f"{operation.label} has a weight of other axes than it normalizes, which is not read")
    return functional.layer_norm(x, weight.shape, weight, bias, operation.get("epsilon", 1e-5))


def _mean(x: Tensor, axes: list[int], keep: bool) -> Tensor:  # noqa: FBT001 - torch's order of arguments
    return x.mean(axes, keepdim=keep)


def _norm(x: Tensor, axes: list[int], keep: bool) -> Tensor:  # noqa: FBT001 - torch's order of arguments
    return x.square().sum(axes, keepdim=keep).sqrt()


FUNCTIONS: Mapping[str, ImageFunction] = {
    "Abs": _unary(torch.abs),
    "Add": _binary(operator.add),
    "And": _binary(torch.logical_and),
    "Cast": _cast,
    "Ceil": _unary(torch.ceil),
    "Clip": _clip,
    "Concat": _concat,
    "ConstantOfShape": _constant_of_shape,
    "Cos": _unary(torch.cos),
    "Div": _binary(operator.truediv),
    "Dropout": _unary(lambda x: x),
    "Einsum": _einsum,
    "Elu": lambda operation, x: functional.elu(x, operation.get("alpha", 1.0)),
    "Equal": _binary(operator.eq),
    "Erf": _unary(torch.erf),
    "Exp": _unary(torch.exp),
    "Expand": _expand,
    "Flatten": _flatten,
    "Floor": _unary(torch.floor),
    "Gather": _gather,
    "Gelu": _gelu,
    "Gemm": _gemm,
    "GlobalAveragePool": _global(_mean),
    "GlobalMaxPool": _global(torch.amax),
    "Greater": _binary(operator.gt),
    "GreaterOrEqual": _binary(operator.ge),
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _unary(functional.hardswish),
    "Identity": _unary(lambda x: x),
    "InstanceNormalization": _instance_norm,
    "LayerNormalization": _layer_norm,
    "LeakyRelu": lambda operation, x: functional.leaky_relu(x, operation.get("alpha", 0.01)),
    "Less": _binary(operator.lt),
    "LessOrEqual": _binary(operator.le),
    "Log": _unary(torch.log),
    "MatMul": _binary(operator.matmul),
    "Max": _folded(torch.maximum),
    "Min": _folded(torch.minimum),
    "Mish": _unary(functional.mish),
    "Mul": _binary(operator.mul),
    "Neg": _unary(torch.neg),
    "Not": _unary(torch.logical_not),
    "Or": _binary(torch.logical_or),
    "PRelu": _prelu,
    "Pow": _binary(operator.pow),
    "Reciprocal": _unary(torch.reciprocal),
    "ReduceL2": _reduce(_norm),
    "ReduceMax": _reduce(torch.amax),
    "ReduceMean": _reduce(_mean),
    "ReduceMin": _reduce(torch.amin),
    "ReduceSum": _reduce(torch.sum),
    "ReduceSumSquare": _reduce(lambda x, axes, keep: x.square().sum(axes, keepdim=keep)),
    "Relu": _unary(torch.relu),
    "Reshape": _reshape,
    "Round": _unary(torch.round),
    "Shape": _shape,
    "Sigmoid": _unary(torch.sigmoid),
    "Sign": _unary(torch.sign),
    "Sin": _unary(torch.sin),
    "Size": _size,
    "Slice": _slice,
    "Softmax": _softmax,
    "Softplus": _unary(functional.softplus),
    "Split": _split,
    "Sqrt": _unary(torch.sqrt),
    "Squeeze": _squeeze,
    "Sub": _binary(operator.sub),
    "Sum": _folded(torch.add),
    "Tanh": _unary(torch.tanh),
    "Tile": _tile,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
    "Where": _where,
    **RESIZING,
    **WINDOWS,
}
"""The operations that read feature maps or parameters, by ONNX's name."""
