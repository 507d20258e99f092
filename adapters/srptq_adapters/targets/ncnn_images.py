"""Operations that move or resample pixels, as ncnn's layers."""

from collections.abc import Mapping, Sequence
from itertools import permutations
from math import inf

from onnx import NodeProto

from srptq_adapters.targets.ncnn_convolutions import REST
from srptq_adapters.targets.ncnn_elementwise import Operation
from srptq_adapters.targets.ncnn_file import Value
from srptq_adapters.targets.ncnn_graph import MOST_DIMENSIONS, NcnnGraph, option
from srptq_adapters.targets.ncnn_sizes import Measure, Size, bounds, compute, text
from srptq_adapters.targets.onnx_graph import attribute

NEAREST, BILINEAR, BICUBIC = 1, 2, 3
RESIZES = {"nearest": NEAREST, "linear": BILINEAR, "cubic": BICUBIC}
COORDINATES, HALF, ALIGNED = "coordinate_transformation_mode", "half_pixel", "align_corners"
ROUNDED = "round_prefer_floor"
BORDERS = {"constant": 0, "edge": 1, "reflect": 2}
VALID = 1
FARTHEST = 2**31 - 1
CUBIC = -0.75
UNSHUFFLED, SHUFFLED = (0, 1, 3, 5, 2, 4), (0, 1, 4, 2, 5, 3)
BLOCKS = {UNSHUFFLED: ("Reorg", (3, 5)), SHUFFLED: ("PixelShuffle", (2, 3))}
"""The layer for a Transpose between two Reshapes, and the axes that hold the block's sides."""


def _concat(graph: NcnnGraph, node: NodeProto) -> None:
    graph.add("Concat", node, node.input, {0: graph.axis(node, attribute(node, "axis", 1))})


def _split(graph: NcnnGraph, node: NodeProto) -> None:
    sizes = graph.numbers(node, 1) or list(attribute(node, "split", ())) or [REST] * len(node.output)
    graph.add("Slice", node, node.input[:1], {0: sizes, 1: graph.axis(node, attribute(node, "axis", 0))})


def _slice(graph: NcnnGraph, node: NodeProto) -> None:
    starts, ends = (graph.sizes_at(node, index) for index in (1, 2))
    axes = graph.numbers(node, 3) or list(range(len(starts)))
    if any(step != 1 for step in graph.numbers(node, 4) or ()):
        raise graph.refusal(node, "with steps")
    _add_crop(graph, node, starts, ends, [graph.axis(node, axis) for axis in axes])


def _add_crop(
    graph: NcnnGraph, node: NodeProto, starts: Sequence[Size], ends: Sequence[Size], axes: Sequence[int]
) -> None:
    values = graph.measured([*starts, *ends], node.input[0])
    known = [size for size in (*starts, *ends) if isinstance(size, int)]
    if len(known) == len(starts) + len(ends):
        last = [min(end, FARTHEST) for end in known[len(starts) :]]
        graph.add("Crop", node, values, {9: known[: len(starts)], 10: last, 11: list(axes)})
    else:
        texts = (",".join(text(size, values) for size in sizes) for sizes in (starts, ends, axes))
        graph.add("Crop", node, values, dict(zip((19, 20, 21), texts, strict=True)))


def _depth_to_space(graph: NcnnGraph, node: NodeProto) -> None:
    blocks_first = option(node, "mode", "DCR") == "DCR"
    graph.add("PixelShuffle", node, node.input, {0: attribute(node, "blocksize", 1), 1: int(blocks_first)})


def _space_to_depth(graph: NcnnGraph, node: NodeProto) -> None:
    graph.add("Reorg", node, node.input, {0: attribute(node, "blocksize", 1), 1: 1})


def _resize(graph: NcnnGraph, node: NodeProto) -> None:
    kind, scales = RESIZES[option(node, "mode", "nearest")], graph.input(node, 2)
    by_scale = scales is not None and scales.size > 0
    _check_resize(graph, node, kind, by_scale=by_scale)
    params: dict[int, Value] = {0: kind, 6: int(option(node, COORDINATES, HALF) == ALIGNED)}
    if scales is not None and by_scale:
        height, width = (float(scale) for scale in scales.reshape(-1)[-2:])
        if not (height.is_integer() and width.is_integer()):
            raise graph.refusal(node, f"by {height:g} x {width:g}")
        graph.add("Interp", node, node.input[:1], params | {1: height, 2: width})
    else:
        height, width = graph.sizes_at(node, 3)[-2:]
        values = graph.measured([height, width], node.input[0])
        graph.add("Interp", node, values, params | {9: f"{text(width, values)},{text(height, values)}"})


def _check_resize(graph: NcnnGraph, node: NodeProto, kind: int, *, by_scale: bool) -> None:
    """Refuse a resize that ncnn computes from other pixels, or with other weights."""
    coordinates, rounding = option(node, COORDINATES, HALF), option(node, "nearest_mode", ROUNDED)
    # At a whole scale no pixel lies between two others, so that both kinds of coordinates name the same ones.
    nearest = {("asymmetric", "floor"), *([(HALF, ROUNDED)] if by_scale else [])}
    is_smooth = coordinates in (HALF, "pytorch_half_pixel", ALIGNED)
    if not ((coordinates, rounding) in nearest if kind == NEAREST else is_smooth):
        raise graph.refusal(node, f"with coordinates {coordinates}, rounded by {rounding}")
    is_other_cubic = kind == BICUBIC and attribute(node, "cubic_coeff_a", CUBIC) != CUBIC
    if is_other_cubic or any(attribute(node, name, None) for name in ("antialias", "exclude_outside", "axes")):
        raise graph.refusal(node, "with antialiasing, axes, or coefficients of its own")


def _pool(graph: NcnnGraph, node: NodeProto) -> None:
    if attribute(node, "ceil_mode", 0) or set(attribute(node, "dilations", (1,))) != {1}:
        raise graph.refusal(node, "with dilations or sizes rounded up")
    kernel = attribute(node, "kernel_shape", ())
    strides, (top, left, bottom, right) = attribute(node, "strides", (1, 1)), attribute(node, "pads", (0, 0, 0, 0))
    window = {1: kernel[1], 11: kernel[0], 2: strides[1], 12: strides[0], 3: left, 13: top, 14: right, 15: bottom}
    is_mean = node.op_type == "AveragePool"
    included = attribute(node, "count_include_pad", 0)
    graph.add("Pooling", node, node.input, dict(window | {0: int(is_mean), 5: VALID, 6: included}))


def _pad(graph: NcnnGraph, node: NodeProto) -> None:
    kind, value = option(node, "mode", "constant"), graph.input(node, 2)
    amounts = graph.sizes_at(node, 1)
    rank = len(amounts) // 2
    if kind not in BORDERS or rank != MOST_DIMENSIONS or amounts[0] != 0 or amounts[rank] != 0:
        raise graph.refusal(node, f"{kind} of {rank} dimensions")
    params: dict[int, Value] = {4: BORDERS[kind], 5: 0.0 if value is None else float(value.item())}
    keys = {1: 7, rank + 1: 8, 2: 0, rank + 2: 1, 3: 2, rank + 3: 3}
    known = {key: amounts[index] for index, key in keys.items()}
    if all(isinstance(amount, int) and amount >= 0 for amount in known.values()):
        graph.add("Padding", node, node.input[:1], params | {k: v for k, v in known.items() if isinstance(v, int)})
    else:
        _pad_and_crop(graph, node, params, known)


def _pad_and_crop(graph: NcnnGraph, node: NodeProto, params: dict[int, Value], amounts: Mapping[int, Size]) -> None:
    """Pad by as much as the image can need, and cut off what it does not need. Only the lower and right ends vary."""
    value = node.input[0]
    if any(amounts[key] != 0 for key in (0, 2, 7, 8)):
        raise graph.refusal(node, "by sizes that follow the image, at the upper or left end")
    ends: list[Size] = []
    for axis, key in ((2, 1), (3, 3)):
        most = bounds(amounts[key])[1]
        if most == inf:
            raise graph.refusal(node, "by sizes that grow with the image")
        params[key] = max(int(most), 0)
        ends.append(compute("+", Measure(value, axis, MOST_DIMENSIONS), amounts[key]))
    padded = graph.inner("Padding", [graph.blob(value)], params=params)
    values = graph.measured(ends, value)
    inputs = [*padded.outputs, *map(graph.blob, values)]
    texts = "0,0", ",".join(text(end, ["", *values]) for end in ends), "1,2"
    graph.append("Crop", inputs, node, dict(zip((19, 20, 21), texts, strict=True)))


def _reshape(graph: NcnnGraph, node: NodeProto) -> None:
    value, sizes = node.input[0], graph.sizes_at(node, 1)
    if _shuffle(graph, node, sizes):
        return
    if len(sizes) == graph.rank(value) and all(_is_kept(value, axis, size) for axis, size in enumerate(sizes)):
        graph.alias(node)
        return
    _check_batch(graph, node, sizes)
    kept = [Measure(value, axis, graph.rank(value)) if size == 0 else size for axis, size in enumerate(sizes)][1:]
    values = graph.measured(kept, value)
    graph.add("Reshape", node, values, {6: ",".join(text(size, values) for size in reversed(kept))})
    graph.ranks[node.output[0]] = len(sizes)


def _is_kept(value: str, axis: int, size: Size) -> bool:
    """Tell whether a Reshape leaves an axis as it is. All values have one batch."""
    if isinstance(size, Measure):
        return size.axis == axis and (axis == 0 or size.value == value)
    return size == 0 or (axis == 0 and size in (-1, 1))


def _check_batch(graph: NcnnGraph, node: NodeProto, sizes: Sequence[Size]) -> None:
    """Refuse a Reshape that moves the batch. Where all other sizes are fixed, the first one counts windows."""
    first, *others = sizes
    keeps_batch = first in (-1, 0, 1) or (isinstance(first, Measure) and first.axis == 0)
    are_windows = first == -1 and len(others) > 1 and all(isinstance(size, int) for size in others)
    if not keeps_batch or are_windows or not 1 < len(sizes) <= MOST_DIMENSIONS + 1:
        raise graph.refusal(node, f"of the batch or to {len(sizes)} dimensions")


def _shuffle(graph: NcnnGraph, node: NodeProto, sizes: Sequence[Size]) -> bool:
    """Translate a pixel shuffle or its inverse that is written as Reshape, Transpose, Reshape.

    Returns: whether the node begins one.
    """
    transpose = _only_reader(graph, node, "Transpose")
    reshape = _only_reader(graph, transpose, "Reshape") if transpose else None
    if transpose is None or reshape is None:
        return False
    order, six = tuple(attribute(transpose, "perm", ())), len(UNSHUFFLED)
    if len(sizes) != six or order not in BLOCKS:
        return False
    kind, blocks = BLOCKS[order]
    block, other = (sizes[axis] for axis in blocks)
    if not isinstance(block, int) or other != block:
        return False
    graph.add(kind, node, node.input[:1], {0: block, 1: 0})
    for after in (transpose, reshape):
        graph.alias(after)
        graph.done.add(after.output[0])
    return True


def _only_reader(graph: NcnnGraph, node: NodeProto, kind: str) -> NodeProto | None:
    readers = graph.onnx.readers[node.output[0]]
    return readers[0] if len(readers) == 1 and readers[0].op_type == kind else None


def _flatten(graph: NcnnGraph, node: NodeProto) -> None:
    if attribute(node, "axis", 1) != 1:
        raise graph.refusal(node, "of the batch")
    graph.add("Flatten", node, node.input)
    graph.ranks[node.output[0]] = 2


def _squeeze(graph: NcnnGraph, node: NodeProto) -> None:
    axes = graph.numbers(node, 1)
    if axes is None:
        raise graph.refusal(node, "of the batch")
    graph.add("Squeeze", node, node.input[:1], {3: [graph.axis(node, axis) for axis in axes]})
    graph.ranks[node.output[0]] -= len(axes)


def _unsqueeze(graph: NcnnGraph, node: NodeProto) -> None:
    axes = graph.numbers(node, 1) or []
    rank = graph.rank(node.input[0]) + len(axes)
    graph.add("ExpandDims", node, node.input[:1], {3: [graph.axis(node, axis, rank) for axis in axes]})
    graph.ranks[node.output[0]] = rank


def _transpose(graph: NcnnGraph, node: NodeProto) -> None:
    batch, *axes = attribute(node, "perm", ())
    order = tuple(axis - 1 for axis in axes)
    if batch != 0 or len(order) > MOST_DIMENSIONS:
        raise graph.refusal(node, "of the batch")
    graph.add("Permute", node, node.input, {0: ORDERS[len(order)].index(order)})


def _orders(count: int) -> list[tuple[int, ...]]:
    """Return the axes of a Permute's input in the order of its output, outermost first, by ncnn's number.

    ncnn counts from the innermost axis outwards.

    >>> _orders(3)
    [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)]
    """
    innermost = sorted(permutations(range(count)), key=lambda axes: axes[::-1], reverse=True)
    return [tuple(count - 1 - axis for axis in reversed(axes)) for axes in innermost]


ORDERS = {count: _orders(count) for count in range(1, MOST_DIMENSIONS + 1)}
IMAGES: Mapping[str, Operation] = {
    "AveragePool": _pool,
    "Concat": _concat,
    "DepthToSpace": _depth_to_space,
    "Flatten": _flatten,
    "MaxPool": _pool,
    "Pad": _pad,
    "Reshape": _reshape,
    "Resize": _resize,
    "Slice": _slice,
    "SpaceToDepth": _space_to_depth,
    "Split": _split,
    "Squeeze": _squeeze,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
