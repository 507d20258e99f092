"""VNNI001: int8 weights whose pairs overflow the 16-bit sums of x86 processors without VNNI.

Kernels without VNNI multiply with `vpmaddubsw`, which adds two neighboring uint8 * int8 products in saturating int16.
`pair_sums` says which weights are neighbors.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import onnx
import torch
from onnx import NodeProto
from torch import Tensor

from srptq_adapters.targets.onnx_graph import OnnxGraph, attribute
from srptq_plugin.plugins.protocols import Finding
from srptq_plugin.quantization.saturation import pair_sums

RULE = "VNNI001"
LARGEST = 2**15 - 1
"""The largest int16."""
CURE = "raise the scales of these channels, as `weights.overflow_safe: true` does, or use 7-bit weights"
MOVING = frozenset(
    {"DepthToSpace", "SpaceToDepth", "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Identity"}
    | {"Slice", "Split", "Concat", "Pad", "Resize", "MaxPool", "Relu"}
)
"""Operations that integers pass on their way to a convolution, none of which makes them larger."""


def check(model: onnx.ModelProto) -> Sequence[Finding]:
    """Find each operation with an output channel whose pairs of products can exceed 16 bits."""
    graph = OnnxGraph(model.graph)
    findings = (_finding(graph, node) for node in graph.of(*INPUTS))
    return [finding for finding in findings if finding is not None]


def _finding(graph: OnnxGraph, node: NodeProto) -> Finding | None:
    weight, largest = _weight(graph, node), _largest_activation(graph, node)
    if weight is None or largest is None:
        return None
    sums, limit = pair_sums(weight), LARGEST // largest
    unsafe = int((sums > limit).sum())
    if not unsafe:
        return None
    problem = f"{unsafe} of {len(sums)} output channels can overflow 16 bits without VNNI"
    products = f"two neighboring weights add up to {int(sums.max())}, times {largest} is more than {LARGEST}"
    return Finding(RULE, node.name or node.output[0], f"{node.op_type}: {problem}: {products}", CURE, without_vnni=True)


INPUTS: Mapping[str, tuple[int, int]] = {
    **dict.fromkeys(("Conv", "ConvTranspose", "Gemm", "MatMul", "ConvInteger", "MatMulInteger"), (0, 1)),
    **dict.fromkeys(("QLinearConv", "QLinearMatMul", "QGemm"), (0, 3)),
}
"""The input indices of the activations and of the weight, by operation."""
FLOAT = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
"""Operations that run in integers between DequantizeLinear and QuantizeLinear."""


def _weight(graph: OnnxGraph, node: NodeProto) -> Tensor | None:
    """Return an int8 weight as [output channels, input channels, taps], or None if it has another type, or no pairs."""
    value = node.input[INPUTS[node.op_type][1]]
    integers = graph.dequantized(value) if node.op_type in FLOAT else graph.constant(value)
    if integers is None or integers.dtype != np.int8 or integers.ndim < 2 or not integers.size:  # noqa: PLR2004 - outputs, inputs
        return None
    if node.op_type == "ConvTranspose" and len(integers) % max(attribute(node, "group", 1), 1):
        return None
    weight = torch.from_numpy(integers.astype(np.int32))
    ordered = LAYOUTS.get(node.op_type, _as_stored)(node, weight)
    # A depthwise kernel adds no products of two channels.
    return None if ordered.shape[:2] == (attribute(node, "group", 1), 1) else ordered


def _as_stored(_node: NodeProto, weight: Tensor) -> Tensor:
    return weight


def _transposed(_node: NodeProto, weight: Tensor) -> Tensor:
    """Put the output channels of a matrix first, or of each matrix in a stack."""
    return weight.transpose(-1, -2).reshape(-1, weight.shape[-2])


def _of_gemm(node: NodeProto, weight: Tensor) -> Tensor:
    return weight if attribute(node, "transB", 0) else weight.T


def _of_transposed_convolution(node: NodeProto, weight: Tensor) -> Tensor:
    """Put the output channels of every group first."""
    groups = max(attribute(node, "group", 1), 1)
    return weight.reshape(groups, -1, *weight.shape[1:]).transpose(1, 2).flatten(0, 1)


LAYOUTS: Mapping[str, Callable[[NodeProto, Tensor], Tensor]] = {
    "Gemm": _of_gemm,
    "QGemm": _of_gemm,
    "ConvTranspose": _of_transposed_convolution,
    **dict.fromkeys(("MatMul", "MatMulInteger", "QLinearMatMul"), _transposed),
}


def _largest_activation(graph: OnnxGraph, node: NodeProto) -> int | None:
    """Return the largest integer that kernels multiply, counted from 0, or None for float activations."""
    value = node.input[INPUTS[node.op_type][0]]
    if node.op_type not in FLOAT:
        return 2**8 - 1
    ends = [end for end in _ends(graph, value, set()) if end is not None]
    return max(ends, default=None)


def _ends(graph: OnnxGraph, value: str, seen: set[str]) -> Iterator[int | None]:
    """Yield the largest integers of the DequantizeLinear nodes that a value comes from, through movement."""
    node = graph.producers.get(value)
    if node is None or value in seen:
        return
    seen.add(value)
    if node.op_type == "DequantizeLinear":
        yield graph.largest(node)
    elif node.op_type in MOVING:
        for source in node.input if node.op_type == "Concat" else node.input[:1]:
            yield from _ends(graph, source, seen)
