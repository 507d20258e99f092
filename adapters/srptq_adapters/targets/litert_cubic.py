"""Bicubic enlargement, which LiteRT lacks, as a convolution for each pixel of a block, and depth-to-space."""

from collections.abc import Sequence

import numpy as np
from onnx import NodeProto

from srptq_adapters.targets.litert_convolutions import VALID
from srptq_adapters.targets.litert_file import SLICE, Encoding, Operation, Values, join, to_space
from srptq_adapters.targets.litert_graph import LiteRtGraph, channels_last_shape
from srptq_adapters.targets.onnx_graph import attribute

REACH = 2
"""How many pixels a cubic kernel reads on either side."""
HALF_PIXEL = (b"half_pixel", b"pytorch_half_pixel")
TAPS = 2 * REACH + 1


def enlarge_cubic(graph: LiteRtGraph, node: NodeProto) -> None:
    """Translate a bicubic Resize by a whole factor, on floats."""
    before, after = graph.shape(node.input[0]), graph.shape(node.output[0])
    factor = after[2] // before[2]
    is_whole = [factor * side for side in before[2:]] == list(after[2:])
    place = attribute(node, "coordinate_transformation_mode", b"half_pixel")
    others = [attribute(node, name, 0) for name in ("antialias", "exclude_outside")]
    if not is_whole or place not in HALF_PIXEL or any(others):
        raise graph.refusal(node, "in mode cubic, other than by a whole factor and half pixels")
    pairs = [[0, 0], [REACH, REACH], [REACH, REACH], [0, 0]]
    padded = repeat_edges(graph, node, (graph.tensor(node.input[0], None), None), pairs)
    batch, height, width, channels = channels_last_shape(before)
    weights = _cubic_weights(factor, channels, float(attribute(node, "cubic_coeff_a", -0.75)))
    fields = {"padding": VALID, "strideH": 1, "strideW": 1, "dilationHFactor": 1, "dilationWFactor": 1}
    shape = [batch, height, width, channels * factor**2]
    bias = np.zeros(shape[-1], np.float32)
    tensors = [padded, graph.file.constant("cubic", weights), graph.file.constant("bias", bias)]
    blocks = graph.inner(Operation("CONV_2D", "Conv2DOptions", fields), tensors, shape, None)
    graph.add(to_space(factor), [blocks], node.output[0], None)


def _cubic_weights(factor: int, channels: int, a: float) -> Values:
    """Return the weights of all pixels of a block, [pixels x channels, height, width, channels]."""
    rows = np.array([_taps(factor, phase, a) for phase in range(factor)])
    kernels = np.einsum("yi,xj->yxij", rows, rows).reshape(factor**2, TAPS, TAPS)
    return np.einsum("pij,oc->poijc", kernels, np.eye(channels)).reshape(-1, TAPS, TAPS, channels).astype(np.float32)


def _taps(factor: int, phase: int, a: float) -> Values:
    """Return the factors of the pixels from `REACH` before to `REACH` after, for one pixel of a block.

    >>> _taps(2, 0, -0.75).round(4).tolist()
    [-0.0352, 0.2617, 0.8789, -0.1055, 0.0]
    """
    position = (phase + 0.5) / factor - 0.5
    return np.array([_cubic(abs(offset - position), a) for offset in range(-REACH, REACH + 1)])


def _cubic(distance: float, a: float) -> float:
    """Return the cubic kernel of Keys (1981)."""
    if distance >= REACH:
        return 0.0
    if distance > 1:
        return a * (distance**3 - 5 * distance**2 + 8 * distance - 4)
    return (a + 2) * distance**3 - (a + 3) * distance**2 + 1


def repeat_edges(
    graph: LiteRtGraph, node: NodeProto, stored: tuple[int, Encoding | None], pairs: Sequence[Sequence[int]]
) -> int:
    """Join the first and the last slices of a node's input along each axis, so many of them, with the rest.

    Args:
        stored: The tensor of the input, and its encoding.
        pairs: How many slices come before and after, by the axis of the tensor.
    """
    if not graph.fixed:
        raise graph.refusal_of_sizes(node, "that repeats edges")
    tensor, encoding = stored
    shape = channels_last_shape(graph.shape(node.input[0]))
    for axis, (before, after) in enumerate(pairs):
        if not before and not after:
            continue
        single = [1 if other == axis else length for other, length in enumerate(shape)]
        ends = [
            graph.inner(SLICE, [tensor, graph.numbers(begin), graph.numbers(single)], single, encoding)
            for begin in ([0] * len(shape), [shape[axis] - 1 if other == axis else 0 for other in range(len(shape))])
        ]
        shape[axis] += before + after
        tensor = graph.inner(join(axis), [*ends[:1] * before, tensor, *ends[1:] * after], shape, encoding)
    return tensor
