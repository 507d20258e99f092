"""Elementwise operations, reductions and products of matrices as LiteRT's operations."""

from collections.abc import Callable, Mapping

import numpy as np
from onnx import NodeProto, TensorProto

from srptq_adapters.targets.litert_file import Operation
from srptq_adapters.targets.litert_graph import IMAGE_RANK, LAST, LiteRtGraph, channels_last_shape
from srptq_adapters.targets.litert_kernels import MAXIMUM, MINIMUM, Kernel, clip_ends, compute, kernel_of
from srptq_adapters.targets.onnx_graph import attribute

Translation = Callable[[LiteRtGraph, NodeProto], None]

INTEGER_BINARY = ("Add", "Sub", "Mul")
"""Operations that integer kernels compute."""
BINARY = {
    "Add": ("ADD", "AddOptions"), "Sub": ("SUB", "SubOptions"), "Mul": ("MUL", "MulOptions"),
    "Div": ("DIV", "DivOptions"),
}  # fmt: skip
EXTREMES = {"Max": MAXIMUM, "Min": MINIMUM}
UNARY = {
    "Abs": "ABS", "Ceil": "CEIL", "Cos": "COS", "Exp": "EXP", "Floor": "FLOOR",
    "HardSwish": "HARD_SWISH", "Log": "LOG", "Neg": "NEG", "Round": "ROUND", "Sigmoid": "LOGISTIC", "Sin": "SIN",
    "Sqrt": "SQRT", "Tanh": "TANH",
}  # fmt: skip
REDUCTIONS = {"ReduceMean": "MEAN", "ReduceSum": "SUM", "ReduceMax": "REDUCE_MAX", "ReduceMin": "REDUCE_MIN"}
GLOBAL = {"GlobalAveragePool": "MEAN", "GlobalMaxPool": "REDUCE_MAX"}
SQUARE, ROOT = 2.0, 0.5


def _binary(graph: LiteRtGraph, node: NodeProto) -> None:
    kernel = kernel_of(graph, node)
    encodings = [graph.encoding(value) for value in node.input]
    is_integer = node.op_type in INTEGER_BINARY and None not in encodings
    wanted = graph.wanted(kernel.value) if is_integer else None
    tensors = [
        graph.operand(value, node.output[0], wanted and encoding)
        for value, encoding in zip(node.input, encodings, strict=True)
    ]
    operation = Operation(*BINARY[node.op_type], {"fusedActivationFunction": kernel.activation})
    compute(graph, kernel, operation, tensors, wanted)


def _extreme(graph: LiteRtGraph, node: NodeProto) -> None:
    tensors = [graph.operand(value, node.output[0], None) for value in node.input]
    graph.add(EXTREMES[node.op_type], tensors, node.output[0], None)


def _unary(graph: LiteRtGraph, node: NodeProto) -> None:
    _float(graph, node, Operation(UNARY[node.op_type]))


def _float(graph: LiteRtGraph, node: NodeProto, operation: Operation) -> None:
    """Add an operation of one tensor, on floats."""
    graph.add(operation, [graph.tensor(node.input[0], None)], node.output[0], None)


def _cut(graph: LiteRtGraph, node: NodeProto) -> None:
    """Translate a Relu or a Clip that is no part of a kernel. Integers stay integers."""
    ends = clip_ends(graph, node) or (None, None)
    encoding = graph.encoding(node.input[0])
    tensor = graph.tensor(node.input[0], encoding)
    kernel = Kernel(node.output[0], *ends)
    if kernel.activation and encoding is None:
        graph.add(Operation("RELU" if ends[1] is None else "RELU6"), [tensor], node.output[0], None)
        return
    # The ends are integers too, unless they are beyond all integers.
    cuts = [(cut, end) for cut, end in ((MAXIMUM, ends[0]), (MINIMUM, ends[1])) if end is not None]
    for cut, end in cuts:
        graph.add(cut, [tensor, graph.scalar(end, encoding)], node.output[0], encoding)
        tensor = graph.tensor(node.output[0], encoding)
    if not cuts:
        graph.alias(node)


def _leaky_relu(graph: LiteRtGraph, node: NodeProto) -> None:
    stored, wanted = graph.encoding(node.input[0]), graph.wanted(node.output[0])
    encoding = wanted if stored else None
    tensor = graph.source(node, encoding)
    fields = {"alpha": float(attribute(node, "alpha", 0.01))}
    graph.add(Operation("LEAKY_RELU", "LeakyReluOptions", fields), [tensor], node.output[0], encoding)


def _prelu(graph: LiteRtGraph, node: NodeProto) -> None:
    slopes = graph.input(node, 1)
    if slopes is None:
        raise graph.refusal(node, "with computed slopes")
    slopes = slopes.astype(np.float32)
    if slopes.size > 1 and slopes.shape[-3:-2] != slopes.reshape(-1).shape:
        raise graph.refusal(node, "with slopes other than one for each channel")
    tensors = [graph.tensor(node.input[0], None), graph.file.constant("slopes", slopes.reshape(1, 1, -1))]
    graph.add(Operation("PRELU"), tensors, node.output[0], None)


def _elu(graph: LiteRtGraph, node: NodeProto) -> None:
    if attribute(node, "alpha", 1.0) != 1:
        raise graph.refusal(node, "with another factor than 1")
    _float(graph, node, Operation("ELU"))


def _hard_sigmoid(graph: LiteRtGraph, node: NodeProto) -> None:
    shape = channels_last_shape(graph.shape(node.input[0]))
    factor, offset = (
        graph.scalar(attribute(node, name, usual), None) for name, usual in (("alpha", 0.2), ("beta", 0.5))
    )
    scaled = graph.inner(Operation(*BINARY["Mul"]), [graph.tensor(node.input[0], None), factor], shape, None)
    compute(graph, Kernel(node.output[0], 0.0, 1.0), Operation(*BINARY["Add"]), [scaled, offset], None)


def _gelu(graph: LiteRtGraph, node: NodeProto) -> None:
    approximate = attribute(node, "approximate", b"none") == b"tanh"
    _float(graph, node, Operation("GELU", "GeluOptions", {"approximate": approximate}))


def _pow(graph: LiteRtGraph, node: NodeProto) -> None:
    exponent = graph.input(node, 1)
    if exponent is not None and exponent.size == 1 and float(exponent.item()) in (SQUARE, ROOT):
        _float(graph, node, Operation("SQUARE" if float(exponent.item()) == SQUARE else "SQRT"))
        return
    tensors = [graph.operand(value, node.output[0], None) for value in node.input]
    graph.add(Operation("POW", "PowOptions"), tensors, node.output[0], None)


def _reciprocal(graph: LiteRtGraph, node: NodeProto) -> None:
    tensors = [graph.scalar(1, None), graph.tensor(node.input[0], None)]
    graph.add(Operation(*BINARY["Div"]), tensors, node.output[0], None)


def _softmax(graph: LiteRtGraph, node: NodeProto) -> None:
    rank = len(graph.shape(node.input[0]))
    axis, operation = attribute(node, "axis", -1) % rank, Operation("SOFTMAX", "SoftmaxOptions", {"beta": 1.0})
    if rank == IMAGE_RANK and axis == 1:
        _float(graph, node, operation)  # channels are stored last
    elif axis == rank - 1:
        graph.add_plain(operation, [graph.plain(node.input[0], as_floats=True)], node.output[0], None)
    else:
        raise graph.refusal(node, "over height, or over tokens")


def _matmul(graph: LiteRtGraph, node: NodeProto) -> None:
    tensors = [graph.plain(value, as_floats=True) for value in node.input]
    graph.add_plain(Operation("BATCH_MATMUL", "BatchMatMulOptions"), tensors, node.output[0], None)


def _reduce(graph: LiteRtGraph, node: NodeProto) -> None:
    given = graph.input(node, 1)
    axes = list(attribute(node, "axes", ())) if given is None else given.reshape(-1).tolist()
    shape = graph.shape(node.input[0])
    axes = sorted(int(axis) % len(shape) for axis in axes) or list(range(len(shape)))
    _add_reduction(graph, node, REDUCTIONS[node.op_type], axes, keeps=bool(attribute(node, "keepdims", 1)))


def _global(graph: LiteRtGraph, node: NodeProto) -> None:
    rank = len(graph.shape(node.input[0]))
    _add_reduction(graph, node, GLOBAL[node.op_type], list(range(2, rank)), keeps=True)


def _add_reduction(graph: LiteRtGraph, node: NodeProto, kind: str, axes: list[int], *, keeps: bool) -> None:
    rank = len(graph.shape(node.input[0]))
    order = LAST if rank == IMAGE_RANK else tuple(range(rank))
    rest = [axis for axis in order if axis not in axes]
    if not keeps and rest != sorted(rest):
        raise graph.refusal(node, f"over the axes {axes}, of which the others change their order")
    stored, wanted = graph.encoding(node.input[0]), graph.wanted(node.output[0])
    encoding = wanted if stored and kind == "MEAN" else None
    places = graph.numbers([order.index(axis) for axis in axes])
    tensors = [graph.source(node, encoding), places]
    graph.add(Operation(kind, "ReducerOptions", {"keepDims": keeps}), tensors, node.output[0], encoding)


def _cast(graph: LiteRtGraph, node: NodeProto) -> None:
    if attribute(node, "to", 0) != TensorProto.FLOAT:
        raise graph.refusal(node, "to other types than float")
    graph.alias(node)


def _alias(graph: LiteRtGraph, node: NodeProto) -> None:
    graph.alias(node)


ELEMENTWISE: Mapping[str, Translation] = {
    **dict.fromkeys(BINARY, _binary),
    **dict.fromkeys(EXTREMES, _extreme),
    **dict.fromkeys(UNARY, _unary),
    **dict.fromkeys(REDUCTIONS, _reduce),
    "Cast": _cast,
    "Clip": _cut,
    "Dropout": _alias,
    "Elu": _elu,
    "Gelu": _gelu,
    **dict.fromkeys(GLOBAL, _global),
    "HardSigmoid": _hard_sigmoid,
    "Identity": _alias,
    "LeakyRelu": _leaky_relu,
    "MatMul": _matmul,
    "PRelu": _prelu,
    "Pow": _pow,
    "Reciprocal": _reciprocal,
    "Relu": _cut,
    "Softmax": _softmax,
}
