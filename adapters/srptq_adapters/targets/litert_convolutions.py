"""Convolutions and linear layers as LiteRT's operations, in integers where the Q/DQ file says so."""

from collections.abc import Sequence

import numpy as np
from onnx import NodeProto

from srptq_adapters.targets.litert_file import PAD, PADV2, SLICE, Encoding, Operation, Values
from srptq_adapters.targets.litert_graph import IMAGE_RANK, LiteRtGraph, channels_last_shape
from srptq_adapters.targets.litert_kernels import Kernel, compute, kernel_of
from srptq_adapters.targets.onnx_graph import attribute

CONV, DEPTHWISE = ("CONV_2D", "Conv2DOptions"), ("DEPTHWISE_CONV_2D", "DepthwiseConv2DOptions")
SAME, VALID = 0, 1
"""Members of LiteRT's Padding."""
CHANNELWISE = ("QuantizeLinear", "DequantizeLinear", "Relu", "LeakyRelu", "Clip", "Sigmoid", "Tanh")
"""Operations that do the same to each channel."""
OHWI, HWO, IOHW = (0, 2, 3, 1), (1, 2, 3, 0), (1, 2, 3, 0)
"""Permutations of a weight: of a convolution, of a depthwise one, and of a transposed one."""


def conv(graph: LiteRtGraph, node: NodeProto) -> None:
    """Translate a Conv."""
    kernel, encoding = _kernel_and_encoding(graph, node)
    outputs, inputs, *sides = graph.shape(node.input[1])
    if len(graph.shape(node.input[1])) != IMAGE_RANK:
        raise graph.refusal(node, f"of {len(sides)} dimensions")
    groups = attribute(node, "group", 1)
    source, padding = _padded(graph, node, sides, encoding)
    is_depthwise = inputs == 1 and groups > 1
    (stride_h, stride_w), (dilation_h, dilation_w) = _pair(node, "strides"), _pair(node, "dilations")
    fields = {
        "padding": padding, "strideH": stride_h, "strideW": stride_w, "dilationHFactor": dilation_h,
        "dilationWFactor": dilation_w, "fusedActivationFunction": kernel.activation,
    }  # fmt: skip
    if is_depthwise:
        fields["depthMultiplier"] = outputs // groups
    kind, table = DEPTHWISE if is_depthwise else CONV
    tensors = [source, *_constants(graph, node, HWO if is_depthwise else OHWI, encoding)]
    compute(graph, kernel, Operation(kind, table, fields), tensors, encoding)


def transposed(graph: LiteRtGraph, node: NodeProto) -> None:
    """Translate a ConvTranspose, whose sides are cut behind it."""
    kernel, encoding = _kernel_and_encoding(graph, node)
    if attribute(node, "group", 1) != 1 or _pair(node, "dilations") != [1, 1]:
        raise graph.refusal(node, "in groups or dilated")
    if not graph.fixed:
        raise graph.refusal_of_sizes(node, "for any size")
    strides, (top, left, *_) = _pair(node, "strides"), attribute(node, "pads", [0] * 4)
    *_, height, width = (
        (length - 1) * stride + side
        for length, stride, side in zip(
            graph.shape(node.input[0])[2:], strides, graph.shape(node.input[1])[2:], strict=True
        )
    )
    batch, *sides, channels = shape = channels_last_shape(graph.shape(node.output[0]))
    if sides[0] + top > height or sides[1] + left > width:
        raise graph.refusal(node, "with more padding of the output than of the input")
    fields = {"padding": VALID, "strideH": strides[0], "strideW": strides[1],
              "fusedActivationFunction": kernel.activation}  # fmt: skip
    whole = [batch, height, width, channels]
    weights, biases = _constants(graph, node, IOHW, encoding)
    source = graph.source(node, encoding)
    operation, tensors = Operation("TRANSPOSE_CONV", "TransposeConvOptions", fields), [weights, source, biases]
    if whole == shape:
        compute(graph, kernel, operation, [graph.numbers(shape), *tensors], encoding)
        return
    tensor = graph.inner(operation, [graph.numbers(whole), *tensors], whole, encoding)
    parts = [tensor, graph.numbers([0, top, left, 0]), graph.numbers(shape)]
    compute(graph, kernel, SLICE, parts, encoding)


def linear(graph: LiteRtGraph, node: NodeProto) -> None:
    """Translate a Gemm."""
    kernel, encoding = _kernel_and_encoding(graph, node)
    if attribute(node, "transA", 0) or attribute(node, "alpha", 1.0) != 1 or attribute(node, "beta", 1.0) != 1:
        raise graph.refusal(node, "with factors, or of a transposed tensor")
    order = (0, 1) if attribute(node, "transB", 0) else (1, 0)
    source = graph.source(node, encoding)
    tensors = [source, *_constants(graph, node, order, encoding)]
    fields = {"fusedActivationFunction": kernel.activation}
    compute(graph, kernel, Operation("FULLY_CONNECTED", "FullyConnectedOptions", fields), tensors, encoding)


def _kernel_and_encoding(graph: LiteRtGraph, node: NodeProto) -> tuple[Kernel, Encoding | None]:
    """Return what a layer computes with its activation, and the encoding of the result, or None for floats."""
    kernel = kernel_of(graph, node)
    is_integer = graph.integers(node.input[1]) is not None and graph.encoding(node.input[0]) is not None
    return kernel, graph.wanted(kernel.value) if is_integer else None


def _constants(graph: LiteRtGraph, node: NodeProto, order: Sequence[int], encoding: Encoding | None) -> tuple[int, int]:
    """Add the weight and the bias of a layer, as integers if its result has an encoding, else as floats.

    Their channels get the order that depth-to-space behind them wants.
    """
    weight, bias = graph.constant(node.input[1]), graph.input(node, 2)
    if weight is None or (len(node.input) > 2 and node.input[2] and bias is None):  # noqa: PLR2004
        raise graph.refusal(node, "with a computed weight or bias")
    axis = 1 if node.op_type == "ConvTranspose" else 0
    channels = _order_for_shuffle(graph, node)
    channels = np.arange(weight.shape[axis]) if channels is None else channels
    bias = np.zeros(weight.shape[axis], np.float32) if bias is None else bias.astype(np.float32)
    integers, source = graph.integers(node.input[1]), graph.encoding(node.input[0])
    if encoding is None or integers is None or source is None:
        values = weight.astype(np.float32).take(channels, axis).transpose(order)
        return graph.file.constant(node.input[1], values), graph.file.constant("bias", bias[channels])
    scales = np.array(integers.encoding.scales, np.float32)
    products = np.float32(source.scales[0]) * scales
    rounded = np.rint(bias / products).astype(np.int32)[channels]
    values = integers.values.take(channels, axis).transpose(order).astype(np.int8)
    if scales.size > 1:
        scales, products = scales[channels], products[channels]
    weights, biases = _symmetric(scales, order.index(axis)), _symmetric(products)
    return graph.file.constant(node.input[1], values, weights), graph.file.constant("bias", rounded, biases)


def _symmetric(scales: Values, axis: int = 0) -> Encoding:
    return Encoding(tuple(map(float, scales)), (0,) * scales.size, axis)


def _order_for_shuffle(graph: LiteRtGraph, node: NodeProto) -> Values | None:
    """Return the order of output channels with which LiteRT's depth-to-space gives ONNX's, or None without one."""
    value = node.output[0]
    if attribute(node, "group", 1) != 1:
        return None  # an output channel of a group belongs to the group's inputs
    while len(readers := graph.onnx.readers[value]) == 1:
        reader = readers[0]
        if reader.op_type == "DepthToSpace":
            graph.permuted.add(value)
            return shuffle_order(graph.shape(value)[1], reader)
        if reader.op_type not in CHANNELWISE:
            return None
        value = reader.output[0]
    return None


def shuffle_order(channels: int, node: NodeProto) -> Values:
    """Return which channel of a DepthToSpace's input stands where in LiteRT's order.

    >>> from onnx import helper
    >>> shuffle_order(8, helper.make_node("DepthToSpace", ["x"], ["y"], blocksize=2, mode="CRD")).tolist()
    [0, 4, 1, 5, 2, 6, 3, 7]
    """
    block = attribute(node, "blocksize", 1)
    if attribute(node, "mode", b"DCR") != b"CRD":
        return np.arange(channels)
    return np.arange(channels).reshape(-1, block**2).T.reshape(-1)


def _pair(node: NodeProto, name: str) -> list[int]:
    return list(attribute(node, name, [1, 1]))


def _padded(graph: LiteRtGraph, node: NodeProto, sides: Sequence[int], encoding: Encoding | None) -> tuple[int, int]:
    """Return the input of a convolution, and the padding that its operation does. The rest is padded before it."""
    if attribute(node, "auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
        raise graph.refusal(node, "with automatic padding")
    pads, source = list(attribute(node, "pads", [0] * 4)), graph.source(node, encoding)
    if not any(pads):
        return source, VALID
    spans = [dilation * (side - 1) for dilation, side in zip(_pair(node, "dilations"), sides, strict=True)]
    if _pair(node, "strides") == [1, 1] and [2 * pad for pad in pads] == spans * 2:
        return source, SAME
    return pad_sides(graph, node, source, encoding and graph.encoding(node.input[0])), VALID


def pad_sides(
    graph: LiteRtGraph, node: NodeProto, tensor: int, encoding: Encoding | None, fill: int | None = None
) -> int:
    """Pad the sides of a node's input, which a tensor holds, by its `pads`: with zeros, or with a constant."""
    top, left, bottom, right = attribute(node, "pads", ())
    batch, channels, height, width = graph.shape(node.input[0])
    shape = [batch, height + top + bottom, width + left + right, channels]
    amounts = graph.file.constant("pads", np.array([[0, 0], [top, bottom], [left, right], [0, 0]], np.int32))
    if fill is None:
        return graph.inner(PAD, [tensor, amounts], shape, encoding)
    return graph.inner(PADV2, [tensor, amounts, fill], shape, encoding)
