"""Operations that move, join, resize and pool values, as LiteRT's operations. Those that move integers keep them."""

from collections.abc import Mapping

import numpy as np
from onnx import NodeProto

from srptq_adapters.targets.litert_convolutions import VALID, pad_sides, shuffle_order
from srptq_adapters.targets.litert_cubic import HALF_PIXEL, enlarge_cubic, repeat_edges
from srptq_adapters.targets.litert_elementwise import Translation
from srptq_adapters.targets.litert_file import PAD, PADV2, SLICE, Encoding, Operation, join, to_space
from srptq_adapters.targets.litert_graph import IMAGE_RANK, LAST, RESHAPE, TRANSPOSE, LiteRtGraph, channels_last_shape
from srptq_adapters.targets.onnx_graph import attribute

CHANNELS = 3
"""The axis of channels where they are last."""
LEAST_FLOAT = float(np.finfo(np.float32).min)
OPEN = 2**31 - 1
"""Ends from here on mean the end of an axis of any length."""
REST = -1
"""A length up to the end."""
POOLS = {"AveragePool": "AVERAGE_POOL_2D", "MaxPool": "MAX_POOL_2D"}
PADS = {
    b"constant": PAD,
    b"reflect": Operation("MIRROR_PAD", "MirrorPadOptions", {"mode": 0}),
}
GATHER = Operation("GATHER", "GatherOptions", {"axis": CHANNELS})


def _axis(graph: LiteRtGraph, node: NodeProto, axis: int) -> int:
    """Return the axis of a stored tensor for an axis of a node's first input."""
    rank = len(graph.shape(node.input[0]))
    return LAST.index(axis % rank) if rank == IMAGE_RANK else axis % rank


def _stored(graph: LiteRtGraph, node: NodeProto) -> tuple[int, Encoding | None]:
    """Return the tensor of a node's first input as it is stored."""
    encoding = graph.encoding(node.input[0])
    return graph.tensor(node.input[0], encoding), encoding


def _depth_to_space(graph: LiteRtGraph, node: NodeProto) -> None:
    tensor, encoding = _stored(graph, node)
    if node.input[0] not in graph.permuted:
        shape = channels_last_shape(graph.shape(node.input[0]))
        order = graph.numbers(shuffle_order(shape[CHANNELS], node).tolist())
        tensor = graph.inner(GATHER, [tensor, order], shape, encoding)
    graph.add(to_space(attribute(node, "blocksize", 1)), [tensor], node.output[0], encoding)


def _space_to_depth(graph: LiteRtGraph, node: NodeProto) -> None:
    tensor, encoding = _stored(graph, node)
    operation = Operation("SPACE_TO_DEPTH", "SpaceToDepthOptions", {"blockSize": attribute(node, "blocksize", 1)})
    graph.add(operation, [tensor], node.output[0], encoding)


def _concat(graph: LiteRtGraph, node: NodeProto) -> None:
    encodings = {graph.encoding(value) for value in node.input}
    # Its integers have one encoding, which the plan sees to.
    encoding = encodings.pop() if len(encodings) == 1 else None
    tensors = [graph.tensor(value, encoding) for value in node.input]
    graph.add(join(_axis(graph, node, attribute(node, "axis", 0))), tensors, node.output[0], encoding)


def _split(graph: LiteRtGraph, node: NodeProto) -> None:
    axis = attribute(node, "axis", 0)
    _check_axis(graph, node, axis % len(graph.shape(node.input[0])))
    begin = 0
    for output in node.output:
        shape = graph.shape(output)
        _add_slice(graph, node, output, {axis % len(shape): (begin, shape[axis])})
        begin += shape[axis]


def _slice(graph: LiteRtGraph, node: NodeProto) -> None:
    starts, ends, axes, steps = (graph.input(node, index) for index in (1, 2, 3, 4))
    shape = graph.shape(node.input[0])
    if starts is None or ends is None or (steps is not None and bool((steps != 1).any())):
        raise graph.refusal(node, "with steps or computed ends")
    places = range(len(shape)) if axes is None else axes.tolist()
    parts: dict[int, tuple[int, int]] = {}
    for axis, start, end in zip(places, starts.tolist(), ends.tolist(), strict=True):
        begin, stop, _ = slice(start, end).indices(shape[axis])
        if start < 0 or end < OPEN:
            _check_axis(graph, node, axis % len(shape))
        parts[axis % len(shape)] = begin, (REST if stop == shape[axis] else stop - begin)
    _add_slice(graph, node, node.output[0], parts)


def _check_axis(graph: LiteRtGraph, node: NodeProto, axis: int) -> None:
    """Refuse to count along height or width in a file for any size."""
    if not graph.fixed and axis in (2, 3):
        raise graph.refusal_of_sizes(node, "of height or width")


def _add_slice(graph: LiteRtGraph, node: NodeProto, output: str, parts: Mapping[int, tuple[int, int]]) -> None:
    """Add a SLICE of the places from a begin on, so many of them, by axis."""
    tensor, encoding = _stored(graph, node)
    rank = len(graph.shape(output))
    order = LAST if rank == IMAGE_RANK else range(rank)
    begins, lengths = zip(*(parts.get(axis, (0, REST)) for axis in order), strict=True)
    tensors = [tensor, graph.numbers(begins), graph.numbers(lengths)]
    graph.add(SLICE, tensors, output, encoding)


def _pad(graph: LiteRtGraph, node: NodeProto) -> None:
    amounts, fill, mode = graph.input(node, 1), graph.input(node, 2), attribute(node, "mode", b"constant")
    if amounts is None or (amounts < 0).any() or mode not in (*PADS, b"edge"):
        raise graph.refusal(node, f"in mode {mode.decode()}, or by computed or negative amounts")
    pairs = amounts.reshape(2, -1).T
    pairs = pairs[list(LAST)] if len(pairs) == IMAGE_RANK else pairs
    if mode == b"edge":
        stored = _stored(graph, node)
        graph.store(node.output[0], repeat_edges(graph, node, stored, pairs.tolist()), stored[1])
        return
    tensor, encoding = _stored(graph, node)
    operation, tensors = PADS[mode], [tensor, graph.file.constant("pads", pairs.astype(np.int32))]
    if fill is not None and fill.any():
        operation = PADV2
        tensors.append(graph.scalar(float(fill.item()), encoding))
    graph.add(operation, tensors, node.output[0], encoding)


def _resize(graph: LiteRtGraph, node: NodeProto) -> None:
    mode, place = (attribute(node, name, b"") for name in ("mode", "coordinate_transformation_mode"))
    before, after = graph.shape(node.input[0]), graph.shape(node.output[0])
    if len(before) != IMAGE_RANK:
        raise graph.refusal(node, "of other than 2 dimensions")
    if not graph.fixed and graph.input(node, 3) is not None:
        raise graph.refusal_of_sizes(node, "to a size")
    factors = {length // short for short, length in zip(before[2:], after[2:], strict=True)}
    if mode == b"cubic" and len(factors) == 1:
        enlarge_cubic(graph, node)
        return
    is_repeat = mode == b"nearest" and [f * s for f in factors for s in before[2:]] == list(after[2:])
    if is_repeat and len(factors) == 1:
        _repeat(graph, node, factors.pop())
    elif graph.fixed and not (mode == b"nearest" and place != b"asymmetric"):
        # Bilinear resizing gives values between the levels of its input.
        tensor, encoding = _stored(graph, node) if mode == b"nearest" else (graph.tensor(node.input[0], None), None)
        kind, table = ("NEAREST_NEIGHBOR", "NearestNeighbor") if mode == b"nearest" else ("BILINEAR", "Bilinear")
        fields = {"alignCorners": place == b"align_corners", "halfPixelCenters": place in HALF_PIXEL}
        operation = Operation(f"RESIZE_{kind}", f"Resize{table}Options", fields)
        graph.add(operation, [tensor, graph.numbers(after[2:])], node.output[0], encoding)
    else:
        raise graph.refusal_of_sizes(node, "to a size that follows the image's, or at half pixels")


def _repeat(graph: LiteRtGraph, node: NodeProto, factor: int) -> None:
    """Repeat each pixel along both sides: as depth-to-space of repeated channels, which takes any size."""
    tensor, encoding = _stored(graph, node)
    batch, height, width, channels = channels_last_shape(graph.shape(node.input[0]))
    shape, copies = [batch, height, width, channels * factor**2], [tensor] * factor**2
    joined = graph.inner(join(CHANNELS), copies, shape, encoding)
    graph.add(to_space(factor), [joined], node.output[0], encoding)


def _pool(graph: LiteRtGraph, node: NodeProto) -> None:
    pads, is_average = attribute(node, "pads", [0] * 4), node.op_type == "AveragePool"
    counts_pads = not any(pads) or not is_average or attribute(node, "count_include_pad", 0)
    if attribute(node, "ceil_mode", 0) or not counts_pads or len(graph.shape(node.input[0])) != IMAGE_RANK:
        raise graph.refusal(node, "rounded up, without what it pads, or of other than 2 dimensions")
    (height, width), (stride_h, stride_w) = attribute(node, "kernel_shape", ()), attribute(node, "strides", [1, 1])
    tensor, encoding = _stored(graph, node)
    # Averages are rounded, so that other integers than the wanted ones would not be the simulation's.
    if is_average and encoding != graph.wanted(node.output[0]):
        tensor, encoding = graph.tensor(node.input[0], None), None
    if any(pads):
        fill = None if is_average else graph.scalar(LEAST_FLOAT, encoding)
        tensor = pad_sides(graph, node, tensor, encoding, fill)
    fields = {
        "padding": VALID, "filterHeight": height, "filterWidth": width, "strideH": stride_h, "strideW": stride_w,
    }  # fmt: skip
    graph.add(Operation(POOLS[node.op_type], "Pool2DOptions", fields), [tensor], node.output[0], encoding)


def _reshape(graph: LiteRtGraph, node: NodeProto) -> None:
    shape = graph.shape(node.output[0])
    if not graph.fixed and np.prod(graph.shape(node.input[0])[2:]) > 1:
        raise graph.refusal_of_sizes(node, "to a shape that follows the image's")
    tensors = [graph.plain(node.input[0]), graph.numbers(shape)]
    graph.add_plain(RESHAPE, tensors, node.output[0], graph.encoding(node.input[0]))


def _transpose(graph: LiteRtGraph, node: NodeProto) -> None:
    rank = len(graph.shape(node.input[0]))
    order = list(attribute(node, "perm", range(rank)[::-1]))
    tensors = [graph.plain(node.input[0]), graph.numbers(order)]
    graph.add_plain(TRANSPOSE, tensors, node.output[0], graph.encoding(node.input[0]))


IMAGES: Mapping[str, Translation] = {
    **dict.fromkeys(POOLS, _pool),
    **dict.fromkeys(("Flatten", "Reshape", "Squeeze", "Unsqueeze"), _reshape),
    "Concat": _concat,
    "DepthToSpace": _depth_to_space,
    "Pad": _pad,
    "Resize": _resize,
    "Slice": _slice,
    "SpaceToDepth": _space_to_depth,
    "Split": _split,
    "Transpose": _transpose,
}
