"""Operations on single values of feature maps, in torch."""

import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from srptq_plugin.models.onnx_import.operation import Numbers, Operation
from srptq_plugin.models.onnx_import.shape_operations import FLOATS

Operand = Tensor | Numbers | None
"""A value that an operation reads: a feature map or a parameter, or numbers. None if it is left out."""
ElementwiseFunction = Callable[..., Tensor]
DTYPES = {2: torch.uint8, 3: torch.int8, 6: torch.int32, 7: torch.int64, 9: torch.bool}
"""ONNX's numbers for the types that are not floats."""
LARGEST_FLOAT = torch.finfo(torch.float32).max
FIRST_AXIS_OF_SOFTMAX = 13
"""The opset since which softmax is along one axis."""


def _unary(function: Callable[[Tensor], Tensor]) -> ElementwiseFunction:
    def apply(_operation: Operation, x: Tensor, *_: Operand) -> Tensor:
        return function(x)

    return apply


def _sloped(function: Callable[[Tensor, float], Tensor], default: float) -> ElementwiseFunction:
    def apply(operation: Operation, x: Tensor) -> Tensor:
        return function(x, operation.get("alpha", default))

    return apply


def _binary(function: Callable[[Any, Any], Any]) -> ElementwiseFunction:
    def apply(_operation: Operation, left: Operand, right: Operand) -> Tensor:
        return function(_operand(left, right), _operand(right, left))

    return apply


def _folded(function: Callable[[Tensor, Tensor], Tensor]) -> ElementwiseFunction:
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
    least, most = (None if bound is None or abs(bound) > LARGEST_FLOAT / 2 else bound for bound in bounds)
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


ELEMENTWISE: Mapping[str, ElementwiseFunction] = {
    "Abs": _unary(torch.abs),
    "Add": _binary(operator.add),
    "And": _binary(torch.logical_and),
    "Cast": _cast,
    "Ceil": _unary(torch.ceil),
    "Clip": _clip,
    "Cos": _unary(torch.cos),
    "Div": _binary(operator.truediv),
    "Dropout": _unary(lambda x: x),
    "Elu": _sloped(functional.elu, 1.0),
    "Equal": _binary(operator.eq),
    "Erf": _unary(torch.erf),
    "Exp": _unary(torch.exp),
    "Floor": _unary(torch.floor),
    "Gelu": _gelu,
    "Greater": _binary(operator.gt),
    "GreaterOrEqual": _binary(operator.ge),
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _unary(functional.hardswish),
    "Identity": _unary(lambda x: x),
    "LeakyRelu": _sloped(functional.leaky_relu, 0.01),
    "Less": _binary(operator.lt),
    "LessOrEqual": _binary(operator.le),
    "Log": _unary(torch.log),
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
    "Relu": _unary(torch.relu),
    "Round": _unary(torch.round),
    "Sigmoid": _unary(torch.sigmoid),
    "Sign": _unary(torch.sign),
    "Sin": _unary(torch.sin),
    "Softmax": _softmax,
    "Softplus": _unary(functional.softplus),
    "Sqrt": _unary(torch.sqrt),
    "Sub": _binary(operator.sub),
    "Sum": _folded(torch.add),
    "Tanh": _unary(torch.tanh),
    "Where": _where,
}
