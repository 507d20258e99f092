"""Operations that change the size of an image: resizing, and moving values between channels and pixels."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor
from torch.nn import functional

from srptq_plugin.errors import SrptqError
from srptq_plugin.graph.network import IMAGE_AXES
from srptq_plugin.models.onnx_import.operation import Numbers, Operation
from srptq_plugin.models.onnx_import.shape_operations import integers

CURE = "export torch's nearest, bilinear or bicubic interpolation, or give the network as a module"
SUPPORTED = {
    ("nearest", "asymmetric", "floor"): {"mode": "nearest"},
    ("linear", "half_pixel", ""): {"mode": "bilinear", "align_corners": False},
    ("linear", "pytorch_half_pixel", ""): {"mode": "bilinear", "align_corners": False},
    ("linear", "align_corners", ""): {"mode": "bilinear", "align_corners": True},
    ("cubic", "half_pixel", ""): {"mode": "bicubic", "align_corners": False},
    ("cubic", "pytorch_half_pixel", ""): {"mode": "bicubic", "align_corners": False},
    ("cubic", "align_corners", ""): {"mode": "bicubic", "align_corners": True},
}
"""Arguments of torch's `interpolate` by ONNX's mode, coordinates and rounding."""
SAME_IF_ENLARGING = frozenset(
    {
        ("half_pixel", "round_prefer_floor"),
        ("half_pixel", "round_prefer_ceil"),
        ("half_pixel_symmetric", "round_prefer_floor"),
    }
)
"""Coordinates and roundings that repeat every pixel if the factor is a whole number, as the nearest of torch does."""
CUBIC = -0.75
"""The coefficient of torch's bicubic interpolation."""


def _resize(operation: Operation, x: Tensor, *inputs: Numbers | None) -> Tensor:
    """Resize by factors or to a size."""
    # The inputs are the region of interest, the factors and the size. Before opset 11 there are only the factors.
    factors = inputs[0] if len(inputs) == 1 and operation.opset < 11 else (*inputs, None)[1]  # noqa: PLR2004
    size = (*inputs, None, None)[2]
    target = _target(operation, x, factors, size)
    whole = _are_whole(target.get("scale_factor", ()))
    return functional.interpolate(x, **target, **_mode(operation, enlarging=whole))


def _upsample(operation: Operation, x: Tensor, factors: Numbers | None = None) -> Tensor:
    """Enlarge by factors, as files up to opset 9 do."""
    scales = operation.get("scales") if factors is None else factors.tolist()
    if operation.get("mode", "nearest") != "nearest":
        raise SrptqError(f"{operation.label} is a linear one of opset {operation.opset}; export with opset 11 or later")
    return functional.interpolate(x, scale_factor=_of_image(operation, scales), mode="nearest")


def _target(operation: Operation, x: Tensor, factors: Numbers | None, size: Numbers | None) -> dict[str, Any]:
    """Return the factors or the size as arguments of torch's `interpolate`."""
    axes = [axis % x.ndim for axis in operation.get("axes", range(x.ndim))]
    if size is not None and size.size:
        sizes = [*x.shape]
        for axis, length in zip(axes, integers(size), strict=True):
            sizes[axis] = length
        return {"size": sizes[2:]}
    scales = [1.0] * x.ndim
    for axis, scale in zip(axes, [] if factors is None else factors.tolist(), strict=True):
        scales[axis] = scale
    return {"scale_factor": _of_image(operation, scales)}


def _of_image(operation: Operation, scales: list[float]) -> tuple[float, ...]:
    if len(scales) != IMAGE_AXES or set(scales[:2]) != {1.0}:
        raise SrptqError(f"{operation.label} resizes by {scales}, and only height and width are; {CURE}")
    return tuple(scales[2:])


def _are_whole(scales: tuple[float, ...]) -> bool:
    return bool(scales) and all(scale == int(scale) for scale in scales)


def _mode(operation: Operation, *, enlarging: bool) -> dict[str, Any]:
    mode = operation.get("mode", "nearest")
    default = "half_pixel" if operation.opset >= 11 else "asymmetric"  # noqa: PLR2004 - the opset of its own attribute
    coordinates = operation.get("coordinate_transformation_mode", default)
    rounding = operation.get("nearest_mode", "round_prefer_floor" if operation.opset >= 11 else "floor")  # noqa: PLR2004
    if mode == "nearest" and enlarging and (coordinates, rounding) in SAME_IF_ENLARGING:
        coordinates, rounding = "asymmetric", "floor"
    chosen = SUPPORTED.get((mode, coordinates, rounding if mode == "nearest" else ""))
    cubic = mode != "cubic" or (operation.get("cubic_coeff_a", CUBIC), operation.get("exclude_outside", 0)) == (
        CUBIC,
        0,
    )
    if chosen is None or not cubic or operation.get("antialias"):
        raise SrptqError(f"{operation.label} is {mode} with {coordinates} coordinates, which torch has not; {CURE}")
    return chosen


def _depth_to_space(operation: Operation, x: Tensor) -> Tensor:
    block = operation.get("blocksize")
    return functional.pixel_shuffle(x if operation.get("mode") == "CRD" else _interleave(x, block), block)


def _interleave(x: Tensor, block: int) -> Tensor:
    """Bring the channels of each pixel of a block, which are together, to where torch has them."""
    batch, channels, height, width = x.shape
    colors = channels // block**2
    grouped = x.reshape(batch, block**2, colors, height, width).transpose(1, 2)
    return grouped.reshape(batch, channels, height, width)


def _space_to_depth(operation: Operation, x: Tensor) -> Tensor:
    block = operation.get("blocksize")
    deep = functional.pixel_unshuffle(x, block)
    batch, channels, height, width = deep.shape
    grouped = deep.reshape(batch, x.shape[1], block**2, height, width).transpose(1, 2)
    return grouped.reshape(batch, channels, height, width)


RESIZING: Mapping[str, Callable[..., Tensor]] = {
    "DepthToSpace": _depth_to_space,
    "Resize": _resize,
    "SpaceToDepth": _space_to_depth,
    "Upsample": _upsample,
}
