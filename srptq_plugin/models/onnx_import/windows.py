"""Operations on windows of an image: convolutions, pools and padding."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from srptq_plugin.errors import SrptqError
from srptq_plugin.graph.network import IMAGE_AXES
from srptq_plugin.models.onnx_import.operation import Numbers, Operation
from srptq_plugin.models.onnx_import.shape_operations import integers

MODES = {"constant": "constant", "reflect": "reflect", "edge": "replicate", "wrap": "circular"}
"""Torch's names for ONNX's modes of padding."""


@dataclass(frozen=True)
class Window:
    """The window of a convolution or a pool, as [height, width].

    Attributes:
        kernel: Its size.
        stride: The steps between windows.
        dilation: The steps between values in a window.
        padding: What torch's operation pads on both sides.
        margins: What has to be padded before, if the two sides differ, in the order of torch's `pad`.
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: tuple[int, ...]
    margins: tuple[int, ...]

    @classmethod
    def read(cls, operation: Operation, kernel: Sequence[int]) -> "Window":
        """Read the attributes of an operation. Raise SrptqError for paddings that depend on the image."""
        axes = len(kernel)
        stride = tuple(operation.get("strides", [1] * axes))
        dilation = tuple(operation.get("dilations", [1] * axes))
        extent = [step * (size - 1) for size, step in zip(kernel, dilation, strict=True)]
        pads = _pads(operation, extent, stride)
        same = pads[:axes] == pads[axes:]
        margins = [] if same else [pad for axis in reversed(range(axes)) for pad in (pads[axis], pads[axes + axis])]
        padding = tuple(pads[:axes]) if same else (0,) * axes
        return cls(tuple(kernel), stride, dilation, padding, tuple(margins))


def _pads(operation: Operation, extent: list[int], stride: tuple[int, ...]) -> list[int]:
    mode = operation.get("auto_pad", "NOTSET")
    if mode == "NOTSET":
        return operation.get("pads", [0] * 2 * len(extent))
    if mode == "VALID":
        return [0] * 2 * len(extent)
    if set(stride) != {1}:
        raise SrptqError(
            f"{operation.label} pads by {mode} with strides, which depends on the size; export with `pads`"
        )
    smaller, larger = [size // 2 for size in extent], [size - size // 2 for size in extent]
    return smaller + larger if mode == "SAME_UPPER" else larger + smaller


def _conv(operation: Operation, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    window = Window.read(operation, weight.shape[2:])
    convolve = functional.conv1d if x.ndim < IMAGE_AXES else functional.conv2d
    padded = functional.pad(x, window.margins) if window.margins else x
    groups = operation.get("group", 1)
    return convolve(padded, weight, bias, window.stride, window.padding, window.dilation, groups)


def _average_pool(operation: Operation, x: Tensor) -> Tensor:
    window = Window.read(operation, operation.get("kernel_shape"))
    included = bool(operation.get("count_include_pad", 0))
    if set(window.dilation) != {1} or (window.margins and not included):
        raise SrptqError(f"{operation.label} pads its sides differently or is dilated, which torch's pool is not")
    padded = functional.pad(x, window.margins) if window.margins else x
    ceiling = bool(operation.get("ceil_mode", 0))
    return functional.avg_pool2d(padded, window.kernel, window.stride, window.padding, ceiling, included)


def _max_pool(operation: Operation, x: Tensor) -> Tensor:
    window = Window.read(operation, operation.get("kernel_shape"))
    padded = functional.pad(x, window.margins, value=-torch.inf) if window.margins else x
    ceiling = bool(operation.get("ceil_mode", 0))
    return functional.max_pool2d(padded, window.kernel, window.stride, window.padding, window.dilation, ceiling)


def _pad(operation: Operation, x: Tensor, *inputs: Numbers | None) -> Tensor:
    given, value, axes = (*inputs, None, None, None)[:3]
    pads = integers(given) or operation.get("pads", [])
    along = [axis % x.ndim for axis in integers(axes) or range(x.ndim)]
    before, after = dict(zip(along, pads[: len(along)], strict=True)), dict(zip(along, pads[len(along) :], strict=True))
    margins = [pad for axis in reversed(range(x.ndim)) for pad in (before.get(axis, 0), after.get(axis, 0))]
    while margins and all(isinstance(pad, int) and pad == 0 for pad in margins[-2:]):
        del margins[-2:]
    mode = MODES[operation.get("mode", "constant")]
    fill = operation.get("value", 0.0) if value is None else float(value.reshape(-1)[0])
    if not margins:
        return x
    return functional.pad(x, margins, mode, fill if mode == "constant" else None)


WINDOWS: Mapping[str, Callable[..., Tensor]] = {
    "AveragePool": _average_pool,
    "Conv": _conv,
    "MaxPool": _max_pool,
    "Pad": _pad,
}
