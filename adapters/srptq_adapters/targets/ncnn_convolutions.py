"""Convolutions and linear layers for ncnn, in integers where the quant table says so."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from onnx import NodeProto

from srptq_adapters.targets.ncnn_file import Layer, Scales, Value, floats, readers_of, tagged
from srptq_adapters.targets.ncnn_graph import NcnnGraph, option
from srptq_adapters.targets.onnx_graph import attribute
from srptq_plugin.deploy.quant_table import QuantTable
from srptq_plugin.errors import SrptqError
from srptq_plugin.graph.types import Array
from srptq_plugin.planning.plan import Edge
from srptq_plugin.quantization.grid import QParams

CONV, DEPTHWISE, LINEAR = "Convolution", "ConvolutionDepthWise", "InnerProduct"
IMAGE_RANK = 4
LARGEST = 127
WINOGRAD_SUM = (2**31 - 1) // 576
"""The largest sum that Winograd F(4, 3) holds: ncnn computes 576 times the sum in 32 bits."""
FEATURES, NO_WINOGRAD = 31, 1 << 6
ACTIVATION, ACTIVATION_PARAMS = 9, 10


class Convolutions:
    """The translation of convolutions and linear layers by a quant table."""

    def __init__(self, graph: NcnnGraph, table: QuantTable) -> None:
        self.graph, self.table = graph, table

    @property
    def operations(self) -> Mapping[str, Callable[[NcnnGraph, NodeProto], None]]:
        """The translations by operation."""
        methods = {"Conv": self._conv, "ConvTranspose": self._transposed, "Gemm": self._gemm}
        return {kind: lambda _, node, method=method: method(node) for kind, method in methods.items()}

    def _conv(self, node: NodeProto) -> None:
        weight, bias = self._constants(node)
        groups, outputs = attribute(node, "group", 1), len(weight)
        if len(weight.shape) != IMAGE_RANK:
            raise self.graph.refusal(node, f"of {weight.ndim - 2} dimensions")
        params = self._window(node, weight.shape[2:]) | {0: outputs}
        scales, weight = self._scales(node, weight)
        if groups == 1:
            self._add(CONV, node, params, weight, bias, scales)
        elif scales is None or groups == outputs == groups * weight.shape[1]:
            self._add(DEPTHWISE, node, params | {7: groups}, weight, bias, scales)
        else:
            self._grouped(node, groups, params, weight, bias, scales)

    def _add(
        self,
        kind: str,
        node: NodeProto,
        params: dict[int, Value],
        weight: Array,
        bias: Array | None,
        scales: Scales | None,
    ) -> None:
        layer = self.graph.add(kind, node, node.input[:1])
        _fill(layer, params, weight, bias, scales)

    def _grouped(
        self,
        node: NodeProto,
        groups: int,
        params: dict[int, Value],
        weight: Array,
        bias: Array | None,
        scales: Scales,
    ) -> None:
        """Add a convolution for each group: in integers, ncnn's own have one scale for all channels of a group."""
        sizes = [-233] * groups
        parts = self.graph.inner("Slice", [self.graph.blob(node.input[0])], groups, {0: sizes, 1: 0})
        channels = np.split(np.arange(len(weight)), groups)
        layers = [self.graph.inner(CONV, [part]) for part in parts.outputs]
        for layer, rows in zip(layers, channels, strict=True):
            own = Scales(scales.weights[rows], scales.input)
            _fill(layer, params | {0: len(rows)}, weight[rows], None if bias is None else bias[rows], own)
        self.graph.append("Concat", [layer.outputs[0] for layer in layers], node, {0: 0})

    def _transposed(self, node: NodeProto) -> None:
        weight, bias = self._constants(node)
        groups, outputs = attribute(node, "group", 1), weight.shape[1]
        window = self._window(node, weight.shape[2:])
        if attribute(node, "output_shape", None) is not None:
            raise self.graph.refusal(node, "to a given size")
        bottom, right = attribute(node, "output_padding", (0, 0))
        params = window | {0: outputs * groups, 18: right, 19: bottom}
        # ONNX has the input channels first, ncnn the output channels of each group.
        parts = [part.swapaxes(0, 1) for part in np.split(weight, groups)]
        kind = "Deconvolution" if groups == 1 else "DeconvolutionDepthWise"
        grouped: dict[int, Value] = {} if groups == 1 else {7: groups}
        self._add(kind, node, params | grouped, np.concatenate(parts), bias, None)

    def _gemm(self, node: NodeProto) -> None:
        weight, bias = self._constants(node)
        factors = attribute(node, "alpha", 1.0), attribute(node, "beta", 1.0), attribute(node, "transA", 0)
        if factors != (1.0, 1.0, 0):
            raise self.graph.refusal(node, "with factors")
        weight = weight if attribute(node, "transB", 0) else weight.T
        layer = self.graph.add(LINEAR, node, node.input[:1])
        _fill(layer, {0: len(weight)}, weight, bias, None)

    def _constants(self, node: NodeProto) -> tuple[Array, Array | None]:
        """Return a layer's weight and bias, with tuned biases in place of the float network's."""
        weight, bias = self.graph.input(node, 1), self.graph.input(node, 2)
        if weight is None or (bias is None and len(node.input) > 2 and node.input[2]):  # noqa: PLR2004
            raise self.graph.refusal(node, "with a computed weight")
        tuned = self.table.biases.get(self.graph.keys.get(node.output[0], ""))
        return weight, bias if tuned is None else tuned.numpy()

    def _window(self, node: NodeProto, kernel: Sequence[int]) -> dict[int, Value]:
        if option(node, "auto_pad", "NOTSET") != "NOTSET":
            raise self.graph.refusal(node, "with automatic padding")
        strides, dilations = (attribute(node, name, (1, 1)) for name in ("strides", "dilations"))
        top, left, bottom, right = attribute(node, "pads", (0, 0, 0, 0))
        window = {1: kernel[1], 11: kernel[0], 2: dilations[1], 12: dilations[0], 3: strides[1], 13: strides[0]}
        return dict(window | {4: left, 14: top, 15: right, 16: bottom})

    def _scales(self, node: NodeProto, weight: Array) -> tuple[Scales | None, Array]:
        """Return the scales of a convolution in integers, and its integers. A float one has no scales."""
        key = self.graph.keys.get(node.output[0], "")
        image, site = (self.table.plan.by_edge.get(Edge(key, index)) for index in (0, 1))
        if site is None and image is None:
            return None, weight
        if site is None or image is None:
            raise SrptqError(f"{key}: ncnn quantizes the weights and the input of a convolution; quantize both")
        factors = np.resize(_factors(self.table.qparams[site.name]), len(weight))
        integers = self.table.weights[site.name].numpy().astype(np.int8)
        return Scales(factors, float(_factors(self.table.qparams[image.name]).item())), integers


def _factors(qparams: QParams) -> Array:
    # The simulation multiplies by this reciprocal as well.
    return qparams.scale.to(torch.float32).reciprocal().reshape(-1).numpy()


def _fill(layer: Layer, params: Mapping[int, Value], weight: Array, bias: Array | None, scales: Scales | None) -> None:
    """Give a layer its parameters and weights."""
    has_bias, size = ((1, 2) if layer.kind == LINEAR else (5, 6))
    layer.params |= params | {has_bias: int(bias is not None), size: int(weight.size)}
    layer.weights = [tagged(weight), *([] if bias is None else [floats(bias)])]
    layer.scales = scales
    if scales is not None and _overflows_in_winograd(layer, weight):
        layer.params[FEATURES] = NO_WINOGRAD


def _overflows_in_winograd(layer: Layer, weight: Array) -> bool:
    """Tell whether an image exists whose sums overflow in a Winograd kernel. ncnn has them for 3 x 3 at stride 1."""
    window = [layer.params.get(key) for key in (1, 11, 2, 12, 3, 13)]
    reach = LARGEST * int(np.abs(weight.astype(np.int32)).reshape(len(weight), -1).sum(1).max())
    return layer.kind == CONV and window == [3, 3, 1, 1, 1, 1] and reach > WINOGRAD_SUM


def fuse_activations(layers: Sequence[Layer]) -> list[Layer]:
    """Let convolutions compute the activations that follow them, as ncnn's optimizer does."""
    readers, producers = readers_of(layers), {blob: layer for layer in layers for blob in layer.outputs}
    fused: list[Layer] = []
    for layer in layers:
        before = producers.get(layer.inputs[0]) if layer.inputs else None
        fusion = _fusion(layer)
        if before is None or fusion is None or before.kind not in FUSING or len(readers[layer.inputs[0]]) > 1:
            fused.append(layer)
        elif ACTIVATION in before.params:
            fused.append(layer)
        else:
            before.params[ACTIVATION] = fusion[0]
            if fusion[1]:
                before.params[ACTIVATION_PARAMS] = fusion[1]
            before.outputs = layer.outputs
            producers[layer.outputs[0]] = before
    return fused


FUSING = (CONV, DEPTHWISE, LINEAR, "Deconvolution", "DeconvolutionDepthWise")


def _fusion(layer: Layer) -> tuple[int, list[float]] | None:
    """Return the number and the parameters of an activation, or None for other layers."""
    numbers = [value for _, value in sorted(layer.params.items()) if isinstance(value, float)]
    if layer.kind == "ReLU":
        return (2, numbers) if numbers else (1, [])
    kinds = {"Clip": 3, "Sigmoid": 4, "Mish": 5, "HardSwish": 6}
    return (kinds[layer.kind], numbers) if layer.kind in kinds else None


def requantize(layers: Sequence[Layer]) -> None:
    """Let convolutions write integers where nothing but convolutions in integers reads them."""
    readers = readers_of(layers)
    for layer in layers:
        if layer.scales is not None and layer.kind in (CONV, DEPTHWISE):
            factors = {reader.scales.input if reader.scales else None for reader in readers[layer.outputs[0]]}
            if len(factors) == 1:
                layer.scales.output = factors.pop()
