"""Operations of ONNX as files of a few nodes, by name."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from onnx import NodeProto

from helpers.onnx_nodes import Array, node, normal

Case = tuple[Sequence[NodeProto], Mapping[str, Array]]
CHANNELS = 8


def floats(*values: float) -> Array:
    return np.array(values, np.float32)


def whole(*values: int) -> Array:
    return np.array(values, np.int64)


def single(kind: str, *inputs: str, constants: Mapping[str, Array] | None = None, **attributes: Any) -> Case:
    return [node(kind, *inputs, **attributes)], constants or {}


def conv(outputs: int, inputs: int = CHANNELS, sides: tuple[int, int] = (3, 3), **attributes: Any) -> Case:
    constants = {"w": normal(outputs, inputs, *sides), "b": normal(outputs, seed=1)}
    return [node("Conv", "x", "w", "b", **attributes)], constants


def transposed(outputs: int, inputs: int = CHANNELS, **attributes: Any) -> Case:
    constants = {"w": normal(inputs, outputs, 4, 3), "b": normal(outputs * attributes.get("group", 1), seed=1)}
    return [node("ConvTranspose", "x", "w", "b", **attributes)], constants


def fused(kind: str, *inputs: str, constants: Mapping[str, Array] | None = None, **attributes: Any) -> Case:
    """Return a convolution and an activation behind it."""
    nodes = [node("Conv", "x", "w", to="z", pads=(1, 1, 1, 1)), node(kind, "z", *inputs, **attributes)]
    return nodes, {"w": normal(5, CHANNELS, 3, 3)} | dict(constants or {})


def gate(kind: str, shape: Sequence[int], *, swapped: bool = False) -> Case:
    inputs = ("g", "x") if swapped else ("x", "g")
    return single(kind, *inputs, constants={"g": np.abs(normal(*shape)) + 0.5})


def resized(mode: str, scale: float, coordinates: str, **attributes: Any) -> Case:
    constants = {"scales": floats(1, 1, scale, scale)}
    attributes |= {"mode": mode, "coordinate_transformation_mode": coordinates}
    return single("Resize", "x", "", "scales", constants=constants, **attributes)


def resized_like(mode: str, coordinates: str = "half_pixel", **attributes: Any) -> Case:
    """Return a resize of a smaller map to the size of the image."""
    nodes = [
        node("MaxPool", "x", to="small", kernel_shape=(3, 3), strides=(3, 3)),
        node("Shape", "small", to="channels", start=0, end=2),
        node("Shape", "x", to="sides", start=2),
        node("Concat", "channels", "sides", to="size", axis=0),
        node("Resize", "small", "", "", "size", mode=mode, coordinate_transformation_mode=coordinates, **attributes),
    ]
    return nodes, {}


def padded(mode: str, *amounts: int, value: float = 0.0) -> Case:
    top, left, bottom, right = amounts
    constants = {"pads": whole(0, 0, top, left, 0, 0, bottom, right), "value": floats(value)[0]}
    return single("Pad", "x", "pads", "value", constants=constants, mode=mode)


def sliced(starts: Sequence[int], ends: Sequence[int], axes: Sequence[int]) -> Case:
    constants = {"starts": whole(*starts), "ends": whole(*ends), "axes": whole(*axes)}
    return single("Slice", "x", "starts", "ends", "axes", constants=constants)


def attention() -> Case:
    """Return the products of matrices of attention between channels."""
    nodes = [
        node("Reshape", "x", "flat", to="q"),
        node("Transpose", "q", to="k", perm=(0, 2, 1)),
        node("MatMul", "q", "k", to="a"),
        node("Softmax", "a", to="s", axis=-1),
        node("MatMul", "s", "q", to="v"),
        node("Shape", "x", to="size"),
        node("Reshape", "v", "size"),
    ]
    return nodes, {"flat": whole(0, 0, -1)}


def split_and_joined(axis: int, sizes: Sequence[int]) -> Case:
    names = [f"part{number}" for number in range(len(sizes))]
    nodes = [node("Split", "x", "sizes", to=names, axis=axis), node("Concat", *names[::-1], axis=axis)]
    return nodes, {"sizes": whole(*sizes)}


def positive(kind: str) -> Case:
    """Return an operation on positive numbers."""
    return [node("Abs", "x", to="a"), node("Add", "a", "one", to="p"), node(kind, "p")], {"one": floats(1)[0]}


SAME = (1, 1, 1, 1)
CHANNEL, PIXEL, ROW = (1, CHANNELS, 1, 1), (1, 1, 1, 1), (CHANNELS, 1, 1)
CASES: Mapping[str, Case] = {
    "conv": conv(5, pads=SAME),
    "conv without bias": single("Conv", "x", "w", constants={"w": normal(4, CHANNELS, 1, 1)}),
    "conv with asymmetric pads": conv(4, pads=(0, 2, 1, 3)),
    "conv with strides": conv(4, strides=(2, 3), pads=(1, 1, 1, 1)),
    "conv with dilations": conv(4, dilations=(2, 1), pads=(2, 1, 2, 1)),
    "conv with an oblong kernel": conv(4, sides=(1, 5), pads=(0, 2, 0, 2)),
    "conv in groups": conv(12, 2, group=4, pads=SAME),
    "depthwise conv": conv(CHANNELS, 1, group=CHANNELS, pads=SAME),
    "transposed conv": transposed(3, strides=(2, 3), pads=(1, 0, 2, 1)),
    "transposed conv with output padding": transposed(3, strides=(3, 2), output_padding=(2, 1)),
    "transposed conv in groups": transposed(2, group=4, strides=(2, 2), pads=(1, 1, 1, 1)),
    "conv and relu": fused("Relu"),
    "conv and leaky relu": fused("LeakyRelu", alpha=0.05),
    "conv and prelu of one slope": fused("PRelu", "slope", constants={"slope": floats(0.3).reshape(1, 1, 1)}),
    "conv and prelu": fused("PRelu", "slope", constants={"slope": normal(5, 1, 1)}),
    "conv and clip": fused("Clip", "low", "high", constants={"low": floats(-0.5)[0], "high": floats(1.5)[0]}),
    "conv and sigmoid": fused("Sigmoid"),
    "conv and mish": fused("Mish"),
    "conv and hardswish": fused("HardSwish"),
    "conv and tanh": fused("Tanh"),
    "relu": single("Relu", "x"),
    "clip above": single("Clip", "x", "", "high", constants={"high": floats(0.2)[0]}),
    "elu": single("Elu", "x", alpha=0.7),
    "gelu": single("Gelu", "x"),
    "gelu by tanh": single("Gelu", "x", approximate="tanh"),
    "hard sigmoid": single("HardSigmoid", "x", alpha=0.25, beta=0.4),
    "erf": single("Erf", "x"),
    "exp": single("Exp", "x"),
    "abs": single("Abs", "x"),
    "neg": single("Neg", "x"),
    "square": single("Pow", "x", "two", constants={"two": floats(2)[0]}),
    "square root": positive("Sqrt"),
    "logarithm": positive("Log"),
    "reciprocal": positive("Reciprocal"),
    "silu": ([node("Sigmoid", "x", to="s"), node("Mul", "s", "x")], {}),
    "sum with itself": single("Add", "x", "x"),
    "number minus": single("Sub", "one", "x", constants={"one": floats(1)[0]}),
    "number divided": gate("Div", (), swapped=True),
    "divided by a number": gate("Div", ()),
    "channels plus": gate("Add", CHANNEL),
    "channels minus": gate("Sub", CHANNEL, swapped=True),
    "channels times without batch": gate("Mul", ROW),
    "innermost axis plus": (
        [node("Transpose", "x", to="t", perm=(0, 2, 3, 1)), node("Add", "t", "b", to="a"),
         node("Transpose", "a", perm=(0, 3, 1, 2))],
        {"b": normal(CHANNELS)},
    ),
    "one pixel times": gate("Mul", PIXEL),
    "maximum": gate("Max", CHANNEL),
    "gate of each channel": ([node("GlobalAveragePool", "x", to="g"), node("Mul", "x", "g")], {}),
    "gate of each pixel": (
        [node("ReduceMean", "x", "axes", to="g", keepdims=1), node("Mul", "g", "x")],
        {"axes": whole(1)},
    ),
    "maximum of each channel": single("GlobalMaxPool", "x"),
    "mean of rows": single("ReduceMean", "x", "axes", constants={"axes": whole(-1)}, keepdims=1),
    "sum of channels": single("ReduceSum", "x", "axes", constants={"axes": whole(1)}, keepdims=1),
    "softmax of channels": single("Softmax", "x", axis=1),
    "layer norm": (
        [
            node("Transpose", "x", to="t", perm=(0, 2, 3, 1)),
            node("LayerNormalization", "t", "gain", "bias", to="n", axis=-1),
            node("Transpose", "n", perm=(0, 3, 1, 2)),
        ],
        {"gain": normal(CHANNELS), "bias": normal(CHANNELS, seed=1)},
    ),
    "instance norm": single(
        "InstanceNormalization", "x", "gain", "bias", constants={"gain": normal(CHANNELS), "bias": normal(CHANNELS)}
    ),
    "attention": attention(),
    "pixel shuffle": single("DepthToSpace", "x", blocksize=2, mode="CRD"),
    "depth to space": single("DepthToSpace", "x", blocksize=2, mode="DCR"),
    "space to depth": (
        [node("Concat", "x", "x", to="a", axis=2), node("Concat", "a", "a", to="b", axis=3),
         node("SpaceToDepth", "b", blocksize=2)],
        {},
    ),
    "nearest": resized("nearest", 2, "asymmetric", nearest_mode="floor"),
    "nearest of older files": resized("nearest", 3, "half_pixel"),
    "bilinear": resized("linear", 2, "half_pixel"),
    "bilinear with aligned corners": resized("linear", 3, "align_corners"),
    "bicubic": resized("cubic", 2, "half_pixel"),
    "bicubic with aligned corners": resized("cubic", 2, "align_corners"),
    "bilinear to the size of the image": resized_like("linear"),
    "nearest to the size of the image": resized_like("nearest", "asymmetric", nearest_mode="floor"),
    "max pool": single("MaxPool", "x", kernel_shape=(3, 2), strides=(2, 1), pads=(1, 0, 1, 1)),
    "average pool": single("AveragePool", "x", kernel_shape=(3, 3), strides=(2, 2), pads=(1, 1, 1, 1)),
    "average pool over zeros": single("AveragePool", "x", kernel_shape=(3, 3), pads=(1, 1, 1, 1), count_include_pad=1),
    "constant padding": padded("constant", 1, 2, 3, 0, value=0.25),
    "reflected padding": padded("reflect", 1, 2, 3, 4),
    "replicated padding": padded("edge", 1, 2, 3, 4),
    "negative padding": padded("constant", 0, 0, -2, -1),
    "split and concat": split_and_joined(1, (2, 5, 1)),
    "channels sliced": sliced([1], [6], [1]),
    "cropped": sliced([1, 2], [-1, 2**62], [2, 3]),
}  # fmt: skip
