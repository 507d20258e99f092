"""Convolutions and linear layers for ncnn, in integers where the quant table says so."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from onnx import NodeProto

from srptq_adapters.targets.ncnn_file import PART, Layer, Numbers, Scales, Value, floats, tagged
from srptq_adapters.targets.ncnn_graph import NcnnGraph, option
from srptq_adapters.targets.onnx_graph import attribute
from srptq_plugin.deploy.quant_table import QuantTable
from srptq_plugin.errors import SrptqError
from srptq_plugin.planning.plan import Edge
from srptq_plugin.quantization.grid import QParams

CONV, DEPTHWISE, LINEAR = "Convolution", "ConvolutionDepthWise", "InnerProduct"
TRANSPOSED, GROUPED_TRANSPOSED = "Deconvolution", "DeconvolutionDepthWise"
IMAGE_RANK = 4
OUTPUTS, GROUPS = 0, 7
LARGEST = 127
WINOGRAD_SUM = (2**31 - 1) // 576
"""The largest sum of products that Winograd F(4, 3) holds: ncnn 1.0.20261020 computes 576 times the sum in 32 bits."""
FEATURES, NO_WINOGRAD = 31, 1 << 6
REST = -233
"""The size of a part that takes an equal share of the rest."""


@dataclass(frozen=True)
class Kernel:
    """The weight and the bias of a layer. Integers have scales."""

    weight: Numbers
    bias: Numbers | None
    scales: Scales | None = None

    def part(self, rows: Numbers) -> "Kernel":
        """Return the kernel of some output channels."""
        scales = self.scales and Scales(self.scales.weights[rows], self.scales.input)
        return Kernel(self.weight[rows], None if self.bias is None else self.bias[rows], scales)


class Convolutions:
    """The translation of convolutions and linear layers by a quant table."""

    def __init__(self, graph: NcnnGraph, table: QuantTable) -> None:
        self.graph, self.table = graph, table
        if missing := set(table.plan.convs) - set(graph.keys.values()):
            raise SrptqError(f"{min(missing)}: not found in the ONNX graph; export the network again with this version")

    def translate(self, node: NodeProto) -> None:
        """Add the layer of a node."""
        methods = {"Conv": self._conv, "ConvTranspose": self._transposed, "Gemm": self._gemm}
        methods[node.op_type](node)

    def _conv(self, node: NodeProto) -> None:
        kernel = self._quantized(node, self._kernel(node))
        groups, (outputs, inputs, *sides) = attribute(node, "group", 1), kernel.weight.shape
        if kernel.weight.ndim != IMAGE_RANK:
            raise self.graph.refusal(node, f"of {len(sides)} dimensions")
        params = self._window(node, sides) | {OUTPUTS: outputs}
        if groups == 1:
            self._add(CONV, node, params, kernel)
        elif kernel.scales is None or (groups == outputs and inputs == 1):
            self._add(DEPTHWISE, node, params | {GROUPS: groups}, kernel)
        else:
            self._add_groups(node, groups, params, kernel)

    def _add(self, kind: str, node: NodeProto, params: Mapping[int, Value], kernel: Kernel) -> None:
        fill(self.graph.add(kind, node, node.input[:1]), params, kernel)

    def _add_groups(self, node: NodeProto, groups: int, params: Mapping[int, Value], kernel: Kernel) -> None:
        """Add a convolution for each group: in integers, ncnn's own have one scale for all channels of a group."""
        parts = self.graph.inner("Slice", [self.graph.blob(node.input[0])], groups, {0: [REST] * groups, 1: 0})
        base = self.graph.unique(CONV.lower())
        names = [f"{base}{PART}{number}" for number in range(groups)]
        layers = [Layer(CONV, name, [part], [name]) for name, part in zip(names, parts.outputs, strict=True)]
        self.graph.layers += layers
        for layer, rows in zip(layers, np.split(np.arange(len(kernel.weight)), groups), strict=True):
            fill(layer, {**params, OUTPUTS: len(rows)}, kernel.part(rows))
        self.graph.append("Concat", [layer.outputs[0] for layer in layers], node, {0: 0})

    def _transposed(self, node: NodeProto) -> None:
        kernel, groups = self._kernel(node), attribute(node, "group", 1)
        if kernel.weight.ndim != IMAGE_RANK or attribute(node, "output_shape", None) is not None:
            raise self.graph.refusal(node, "to a given size, or of other than 2 dimensions")
        bottom, right = attribute(node, "output_padding", (0, 0))
        # ONNX has the input channels first, ncnn the output channels of each group.
        weight = np.concatenate([part.swapaxes(0, 1) for part in np.split(kernel.weight, groups)])
        params = self._window(node, weight.shape[2:]) | {OUTPUTS: len(weight), 18: right, 19: bottom}
        kind, params = (TRANSPOSED, params) if groups == 1 else (GROUPED_TRANSPOSED, params | {GROUPS: groups})
        self._add(kind, node, params, Kernel(weight, kernel.bias))

    def _gemm(self, node: NodeProto) -> None:
        kernel = self._kernel(node)
        if (attribute(node, "alpha", 1.0), attribute(node, "beta", 1.0), attribute(node, "transA", 0)) != (1, 1, 0):
            raise self.graph.refusal(node, "with factors or a transposed input")
        weight = kernel.weight if attribute(node, "transB", 0) else kernel.weight.T
        self._add(LINEAR, node, {OUTPUTS: len(weight)}, Kernel(weight, kernel.bias))

    def _kernel(self, node: NodeProto) -> Kernel:
        """Return the float weight and the bias of a node: a tuned bias in place of the float network's."""
        weight, bias = self.graph.input(node, 1), self.graph.input(node, 2)
        if weight is None or (bias is None and any(node.input[2:])):
            raise self.graph.refusal(node, "with a computed weight or bias")
        tuned = self.table.biases.get(self.graph.keys.get(node.output[0], ""))
        return Kernel(weight, bias if tuned is None else tuned.numpy())

    def _window(self, node: NodeProto, sides: Sequence[int]) -> dict[int, Value]:
        if option(node, "auto_pad", "NOTSET") != "NOTSET":
            raise self.graph.refusal(node, "with automatic padding")
        (down, right), (rows, columns) = (attribute(node, name, (1, 1)) for name in ("strides", "dilations"))
        top, left, bottom, end = attribute(node, "pads", (0, 0, 0, 0))
        window = {1: sides[1], 11: sides[0], 2: columns, 12: rows, 3: right, 13: down}
        return {**window, 4: left, 14: top, 15: end, 16: bottom}

    def _quantized(self, node: NodeProto, kernel: Kernel) -> Kernel:
        """Return the integers of a convolution that the table quantizes, and any other kernel as it is."""
        key = self.graph.keys.get(node.output[0], "")
        image, weight = (self.table.plan.by_edge.get(Edge(key, index)) for index in (0, 1))
        if image is None and weight is None:
            return kernel
        if image is None or weight is None:
            raise SrptqError(f"{key}: ncnn has no integer weights with float inputs, nor the reverse; quantize both")
        factors = np.resize(_factors(self.table.qparams[weight.name]), len(kernel.weight))
        scales = Scales(factors, float(_factors(self.table.qparams[image.name]).item()))
        return Kernel(self.table.weights[weight.name].numpy().astype(np.int8), kernel.bias, scales)


def _factors(qparams: QParams) -> Numbers:
    # The simulation multiplies by the reciprocal of the scale in float32 as well.
    return qparams.scale.to(torch.float32).reciprocal().reshape(-1).numpy()


def fill(layer: Layer, params: Mapping[int, Value], kernel: Kernel) -> None:
    """Give a layer its parameters and its kernel."""
    has_bias, size = (1, 2) if layer.kind == LINEAR else (5, 6)
    layer.params = {**params, has_bias: int(kernel.bias is not None), size: int(kernel.weight.size)}
    layer.weights = [tagged(kernel.weight), *([] if kernel.bias is None else [floats(kernel.bias)])]
    layer.scales = kernel.scales
    if kernel.scales is not None and _overflows_in_winograd(layer, kernel.weight):
        layer.params[FEATURES] = NO_WINOGRAD


def _overflows_in_winograd(layer: Layer, weight: Numbers) -> bool:
    """Tell whether the sums of some image overflow in a Winograd kernel. ncnn has them for 3 x 3 at stride 1."""
    window = [layer.params.get(key) for key in (1, 11, 2, 12, 3, 13)]
    most = LARGEST * int(np.abs(weight.astype(np.int32)).reshape(len(weight), -1).sum(1).max())
    return layer.kind == CONV and window == [3, 3, 1, 1, 1, 1] and most > WINOGRAD_SUM
