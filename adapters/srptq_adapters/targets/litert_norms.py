"""Layer norm and instance norm, as LiteRT's operations on floats."""

from collections.abc import Sequence

import numpy as np
from onnx import NodeProto

from srptq_adapters.targets.litert_elementwise import BINARY, Translation
from srptq_adapters.targets.litert_file import Operation
from srptq_adapters.targets.litert_graph import IMAGE_RANK, SIDES, LiteRtGraph, channels_last_shape
from srptq_adapters.targets.onnx_graph import attribute

ADD, SUB, MUL = (Operation(*BINARY[name]) for name in ("Add", "Sub", "Mul"))
MEAN = Operation("MEAN", "ReducerOptions", {"keepDims": True})


def _layer_norm(graph: LiteRtGraph, node: NodeProto) -> None:
    shape = graph.shape(node.input[0])
    if attribute(node, "axis", -1) % len(shape) != len(shape) - 1:
        raise graph.refusal(node, "over several axes")
    scaled, shift = _normalized(graph, node, graph.plain(node.input[0], as_floats=True), shape, [len(shape) - 1])
    graph.add_plain(ADD, [scaled, shift], node.output[0], None)


def _instance_norm(graph: LiteRtGraph, node: NodeProto) -> None:
    shape = graph.shape(node.input[0])
    if len(shape) != IMAGE_RANK:
        raise graph.refusal(node, "of other than 2 dimensions")
    tensor = graph.tensor(node.input[0], None)
    graph.add(ADD, _normalized(graph, node, tensor, channels_last_shape(shape), SIDES), node.output[0], None)


def _normalized(
    graph: LiteRtGraph, node: NodeProto, tensor: int, shape: Sequence[int], axes: Sequence[int]
) -> tuple[int, int]:
    """Add what normalizes a tensor along axes and scales its last one. Return it, and the constant to be added."""
    gain, bias = graph.input(node, 1), graph.input(node, 2)
    if gain is None or (bias is None and len(node.input) > 2):  # noqa: PLR2004
        raise graph.refusal(node, "with computed factors")
    bias = np.zeros_like(gain) if bias is None else bias
    single = [1 if axis in axes else length for axis, length in enumerate(shape)]
    places = graph.numbers(axes)
    mean = graph.inner(MEAN, [tensor, places], single, None)
    centered = graph.inner(SUB, [tensor, mean], shape, None)
    squared = graph.inner(MUL, [centered, centered], shape, None)
    variance = graph.inner(MEAN, [squared, places], single, None)
    safe = graph.inner(ADD, [variance, graph.scalar(attribute(node, "epsilon", 1e-5), None)], single, None)
    factor = graph.inner(Operation("RSQRT"), [safe], single, None)
    normalized = graph.inner(MUL, [centered, factor], shape, None)
    scaled = graph.inner(MUL, [normalized, graph.file.constant("gain", gain.astype(np.float32))], shape, None)
    return scaled, graph.file.constant("shift", bias.astype(np.float32))


NORMS: dict[str, Translation] = {"InstanceNormalization": _instance_norm, "LayerNormalization": _layer_norm}
