"""Operations with weights as torch's layers, which export and batch norm folding know."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from srptq_plugin.errors import SrptqError
from srptq_plugin.graph.network import IMAGE_AXES
from srptq_plugin.models.onnx_import.operation import Numbers, Operation
from srptq_plugin.models.onnx_import.windows import Window

Weights = Sequence[Numbers | None]
"""The constants that a layer reads besides its feature map. None for one left out."""


def build_layer(operation: Operation, weights: Weights) -> nn.Module | None:
    """Return an operation with its weights as a layer in evaluation mode, or None if no layer does the same."""
    builder = BUILDERS.get(operation.kind)
    layer = None if builder is None or not weights or weights[0] is None else builder(operation, weights)
    return layer if layer is None else layer.eval()


def to_parameter(array: Numbers) -> nn.Parameter:
    """Return a constant as a parameter, in float32."""
    return nn.Parameter(torch.from_numpy(np.array(array, np.float32)))


def _set(layer: nn.Module, **weights: Numbers | None) -> nn.Module:
    for name, array in weights.items():
        if array is not None:
            setattr(layer, name, to_parameter(array))
    return layer


def _conv(operation: Operation, weights: Weights) -> nn.Module | None:
    weight, bias = _padded(weights, 2)
    window = Window.read(operation, weight.shape[2:])
    if weight.ndim != IMAGE_AXES or window.margins:
        return None
    groups = operation.get("group", 1)
    inputs, outputs = weight.shape[1] * groups, weight.shape[0]
    convolve: Any = nn.Conv2d
    layer = convolve(
        inputs,
        outputs,
        window.kernel,
        window.stride,
        window.padding,
        window.dilation,
        groups,
        bias=bias is not None,
        device="meta",
    )
    return _set(layer, weight=weight, bias=bias)


def _transposed(operation: Operation, weights: Weights) -> nn.Module | None:
    weight, bias = _padded(weights, 2)
    if weight.ndim != IMAGE_AXES:
        return None
    if operation.get("output_shape") or operation.get("auto_pad", "NOTSET") != "NOTSET":
        raise SrptqError(f"{operation.label} gives the size of its output, which is not read; export with `pads`")
    pads, added = operation.get("pads", [0] * 4), operation.get("output_padding", [0, 0])
    # Torch takes the padding off both sides and adds at the end. ONNX takes off each side what it says.
    added = [extra + before - after for extra, before, after in zip(added, pads[:2], pads[2:], strict=True)]
    stride, groups = operation.get("strides", [1, 1]), operation.get("group", 1)
    if not all(0 <= extra < step for extra, step in zip(added, stride, strict=True)):
        return None
    convolve: Any = nn.ConvTranspose2d
    layer = convolve(
        weight.shape[0],
        weight.shape[1] * groups,
        weight.shape[2:],
        tuple(stride),
        tuple(pads[:2]),
        tuple(added),
        groups,
        bias=bias is not None,
        dilation=tuple(operation.get("dilations", [1, 1])),
        device="meta",
    )
    return _set(layer, weight=weight, bias=bias)


def _batch_norm(operation: Operation, weights: Weights) -> nn.Module | None:
    scale, shift, mean, variance = _padded(weights, 4)
    layer = nn.BatchNorm2d(len(scale), eps=operation.get("epsilon", 1e-5))
    layer.register_buffer("running_mean", to_parameter(mean).data)
    layer.register_buffer("running_var", to_parameter(variance).data)
    return _set(layer, weight=scale, bias=shift)


def _prelu(_operation: Operation, weights: Weights) -> nn.Module | None:
    slope = _padded(weights, 1)[0]
    by_channel = slope.size == 1 or (slope.ndim in (3, IMAGE_AXES) and slope.shape[-3:] == (slope.size, 1, 1))
    return _set(nn.PReLU(slope.size), weight=slope.reshape(-1)) if by_channel else None


def _linear(_operation: Operation, weights: Weights) -> nn.Module | None:
    weight, bias = _padded(weights, 2)
    if weight.ndim != 2 or (bias is not None and bias.shape != weight.shape[1:]):  # noqa: PLR2004
        return None
    layer = nn.Linear(*weight.shape, bias=bias is not None, device="meta")
    return _set(layer, weight=weight.T, bias=bias)


def _gemm(operation: Operation, weights: Weights) -> nn.Module | None:
    plain = not operation.get("transA") and operation.get("alpha", 1.0) == operation.get("beta", 1.0) == 1.0
    weight, bias = _padded(weights, 2)
    return _linear(operation, [weight.T if operation.get("transB") else weight, bias]) if plain else None


def _padded(weights: Weights, count: int) -> list[Any]:
    return [*weights, *[None] * (count - len(weights))][:count]


BUILDERS: Mapping[str, Callable[[Operation, Weights], nn.Module | None]] = {
    "BatchNormalization": _batch_norm,
    "Conv": _conv,
    "ConvTranspose": _transposed,
    "Gemm": _gemm,
    "MatMul": _linear,
    "PRelu": _prelu,
}
"""What makes a layer of an operation, by ONNX's name."""
