"""Elementwise operations, products of matrices and reductions, as ncnn's layers."""

from collections.abc import Callable, Mapping

import numpy as np
from onnx import NodeProto, TensorProto

from srptq_adapters.targets.ncnn_file import Value, floats
from srptq_adapters.targets.ncnn_graph import NcnnGraph, option
from srptq_adapters.targets.onnx_graph import attribute

Operation = Callable[[NcnnGraph, NodeProto], None]

ADD, SUB, MUL, DIV, MAX, MIN, RSUB, RDIV = 0, 1, 2, 3, 4, 5, 7, 8
BINARY = {"Add": ADD, "Sub": SUB, "Mul": MUL, "Div": DIV, "Max": MAX, "Min": MIN, "Sum": ADD}
REVERSED = {SUB: RSUB, DIV: RDIV}
UNARY = {
    "Abs": 0, "Neg": 1, "Floor": 2, "Ceil": 3, "Sqrt": 5, "Exp": 7, "Log": 8, "Sin": 9, "Cos": 10, "Reciprocal": 15,
    "Round": 18,
}  # fmt: skip
POWERS = {2.0: 4, 0.5: 5, -0.5: 6, -1.0: 15}
REDUCTIONS = {"ReduceSum": 0, "ReduceSumSquare": 2, "ReduceMean": 3, "ReduceMax": 4, "ReduceMin": 5, "ReduceL2": 8}
GLOBAL = {"GlobalAveragePool": 3, "GlobalMaxPool": 4}
FIXED = 1
"""Says that axes do not count the batch."""
CHANNEL_RANK = 3
"""Channels are the third axis from the end."""
LARGEST_FLOAT = float(np.finfo(np.float32).max)


def _binary(graph: NcnnGraph, node: NodeProto) -> None:
    op = BINARY[node.op_type]
    if len(node.input) != 2:  # noqa: PLR2004
        raise graph.refusal(node, f"of {len(node.input)} tensors")
    constants = map(graph.constant, node.input)
    scalars = [float(values.item()) if values is not None and values.size == 1 else None for values in constants]
    if scalars[1] is not None:
        graph.add("BinaryOp", node, node.input[:1], {0: op, 1: 1, 2: scalars[1]})
    elif scalars[0] is not None:
        graph.add("BinaryOp", node, node.input[1:], {0: REVERSED.get(op, op), 1: 1, 2: scalars[0]})
    else:
        _check_ranks(graph, node)
        graph.add("BinaryOp", node, node.input, {0: op})
    graph.ranks[node.output[0]] = max(map(graph.rank, node.input))


def _check_ranks(graph: NcnnGraph, node: NodeProto) -> None:
    """Refuse tensors of different ranks: ncnn aligns their first dimensions, and ONNX the last ones."""
    if len({graph.ranks[value] for value in node.input if value in graph.ranks}) > 1:
        raise graph.refusal(node, "of tensors of different ranks")


def _unary(graph: NcnnGraph, node: NodeProto) -> None:
    graph.add("UnaryOp", node, node.input, {0: UNARY[node.op_type]})


def _pow(graph: NcnnGraph, node: NodeProto) -> None:
    # ncnn 1.0.20261020 computes a general power by a logarithm, also of negative values.
    exponent = graph.input(node, 1)
    if exponent is None or exponent.size != 1 or float(exponent.item()) not in POWERS:
        raise graph.refusal(node, f"with an exponent other than {', '.join(f'{power:g}' for power in POWERS)}")
    graph.add("UnaryOp", node, node.input[:1], {0: POWERS[float(exponent.item())]})


def _named(kind: str) -> Operation:
    """Return the translation to a layer without parameters."""

    def translate(graph: NcnnGraph, node: NodeProto) -> None:
        graph.add(kind, node, node.input[:1])

    return translate


def _relu(graph: NcnnGraph, node: NodeProto) -> None:
    graph.add("ReLU", node, node.input)


def _leaky_relu(graph: NcnnGraph, node: NodeProto) -> None:
    graph.add("ReLU", node, node.input, {0: float(attribute(node, "alpha", 0.01))})


def _prelu(graph: NcnnGraph, node: NodeProto) -> None:
    slopes = graph.input(node, 1)
    if slopes is None or slopes.size != (slopes.shape[-CHANNEL_RANK] if slopes.ndim >= CHANNEL_RANK else 1):
        raise graph.refusal(node, "with slopes other than one for each channel")
    slopes = slopes.reshape(-1)
    if bool((slopes == slopes[0]).all()):
        # ncnn fuses a leaky ReLU with a convolution, and no PReLU.
        graph.add("ReLU", node, node.input[:1], {0: float(slopes[0])})
    else:
        graph.add("PReLU", node, node.input[:1], {0: int(slopes.size)}, [floats(slopes)])


def _clip(graph: NcnnGraph, node: NodeProto) -> None:
    ends = graph.input(node, 1), graph.input(node, 2)
    if any(name and end is None for name, end in zip(node.input[1:], ends, strict=False)):
        raise graph.refusal(node, "with computed ends")
    low, high = (None if end is None else float(end.item()) for end in ends)
    least, most = (-LARGEST_FLOAT if low is None else low), (LARGEST_FLOAT if high is None else high)
    graph.add("Clip", node, node.input[:1], {0: least, 1: most})


def _hard_sigmoid(graph: NcnnGraph, node: NodeProto) -> None:
    ends: dict[int, Value] = {0: float(attribute(node, "alpha", 0.2)), 1: float(attribute(node, "beta", 0.5))}
    graph.add("HardSigmoid", node, node.input, ends)


def _hard_swish(graph: NcnnGraph, node: NodeProto) -> None:
    graph.add("HardSwish", node, node.input, {0: 1 / 6, 1: 0.5})


def _gelu(graph: NcnnGraph, node: NodeProto) -> None:
    graph.add("GELU", node, node.input, {0: int(option(node, "approximate", "none") == "tanh")})


def _elu(graph: NcnnGraph, node: NodeProto) -> None:
    graph.add("ELU", node, node.input, {0: float(attribute(node, "alpha", 1.0))})


def _softmax(graph: NcnnGraph, node: NodeProto) -> None:
    graph.add("Softmax", node, node.input, {0: graph.axis(node, attribute(node, "axis", -1)), 1: FIXED})


def _reduce(graph: NcnnGraph, node: NodeProto) -> None:
    axes = graph.numbers(node, 1) or list(attribute(node, "axes", ()))
    if not axes:
        raise graph.refusal(node, "over the batch")
    keeps = attribute(node, "keepdims", 1)
    _add_reduction(graph, node, REDUCTIONS[node.op_type], [graph.axis(node, axis) for axis in axes], keeps)


def _global(graph: NcnnGraph, node: NodeProto) -> None:
    _add_reduction(graph, node, GLOBAL[node.op_type], [1, 2], 1)


def _add_reduction(graph: NcnnGraph, node: NodeProto, op: int, axes: list[int], keeps: int) -> None:
    graph.add("Reduction", node, node.input[:1], {0: op, 1: 0, 3: axes, 4: keeps, 5: FIXED})
    graph.ranks[node.output[0]] -= 0 if keeps else len(axes)


def _matmul(graph: NcnnGraph, node: NodeProto) -> None:
    graph.add("MatMul", node, node.input)


def _layer_norm(graph: NcnnGraph, node: NodeProto) -> None:
    gain, bias = graph.input(node, 1), graph.input(node, 2)
    rank = graph.rank(node.input[0])
    if gain is None or attribute(node, "axis", -1) % rank != rank - 1:
        raise graph.refusal(node, "over several axes")
    weights = [floats(gain), floats(np.zeros_like(gain) if bias is None else bias)]
    params: dict[int, Value] = {0: int(gain.size), 1: float(attribute(node, "epsilon", 1e-5))}
    graph.add("LayerNorm", node, node.input[:1], params, weights)


def _instance_norm(graph: NcnnGraph, node: NodeProto) -> None:
    gain, bias = graph.input(node, 1), graph.input(node, 2)
    if gain is None or bias is None:
        raise graph.refusal(node, "with computed factors")
    params: dict[int, Value] = {0: int(gain.size), 1: float(attribute(node, "epsilon", 1e-5)), 2: 1}
    graph.add("InstanceNorm", node, node.input[:1], params, [floats(gain), floats(bias)])


def _cast(graph: NcnnGraph, node: NodeProto) -> None:
    if attribute(node, "to", 0) != TensorProto.FLOAT:
        raise graph.refusal(node, "to other types than float")
    graph.alias(node)


def _alias(graph: NcnnGraph, node: NodeProto) -> None:
    graph.alias(node)


ELEMENTWISE: Mapping[str, Operation] = {
    **dict.fromkeys(BINARY, _binary),
    **dict.fromkeys(UNARY, _unary),
    **dict.fromkeys(REDUCTIONS, _reduce),
    **dict.fromkeys(GLOBAL, _global),
    "Cast": _cast,
    "Clip": _clip,
    "Dropout": _alias,
    "Elu": _elu,
    "Erf": _named("Erf"),
    "Gelu": _gelu,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _hard_swish,
    "Identity": _alias,
    "InstanceNormalization": _instance_norm,
    "LayerNormalization": _layer_norm,
    "LeakyRelu": _leaky_relu,
    "MatMul": _matmul,
    "Mish": _named("Mish"),
    "PRelu": _prelu,
    "Pow": _pow,
    "Relu": _relu,
    "Sigmoid": _named("Sigmoid"),
    "Softmax": _softmax,
    "Tanh": _named("TanH"),
}
