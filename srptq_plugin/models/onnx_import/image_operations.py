"""Operations on images and feature maps, in torch."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from srptq_plugin.errors import SrptqError
from srptq_plugin.models.onnx_import.elementwise import ELEMENTWISE, Operand, as_tensor
from srptq_plugin.models.onnx_import.operation import Numbers, Operation
from srptq_plugin.models.onnx_import.resizing import RESIZING
from srptq_plugin.models.onnx_import.shape_operations import axes_of, integers, numbers, slice_bounds
from srptq_plugin.models.onnx_import.windows import WINDOWS

Result = Tensor | tuple[Tensor, ...] | Numbers
ImageFunction = Callable[..., Result]
END = 2**31 - 1
"""The end of a slice from which on exporters mean the last value."""


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
    kept = [x.shape[axis] if isinstance(size, int) and size == 0 else size for axis, size in enumerate(sizes)]
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
    lead: list[Any] = [1] * (source.ndim - len(sizes))
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


def _matmul(_operation: Operation, left: Operand, right: Operand) -> Tensor:
    return as_tensor(left, right) @ as_tensor(right, left)


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
    "Concat": _concat,
    "ConstantOfShape": _constant_of_shape,
    "Einsum": _einsum,
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "Gemm": _gemm,
    "GlobalAveragePool": _global(_mean),
    "GlobalMaxPool": _global(torch.amax),
    "InstanceNormalization": _instance_norm,
    "LayerNormalization": _layer_norm,
    "MatMul": _matmul,
    "ReduceL2": _reduce(_norm),
    "ReduceMax": _reduce(torch.amax),
    "ReduceMean": _reduce(_mean),
    "ReduceMin": _reduce(torch.amin),
    "ReduceSum": _reduce(torch.sum),
    "ReduceSumSquare": _reduce(lambda x, axes, keep: x.square().sum(axes, keepdim=keep)),
    "Reshape": _reshape,
    "Shape": _shape,
    "Size": _size,
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _squeeze,
    "Tile": _tile,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
    **ELEMENTWISE,
    **RESIZING,
    **WINDOWS,
}
"""The operations that read feature maps or parameters, by ONNX's name."""
