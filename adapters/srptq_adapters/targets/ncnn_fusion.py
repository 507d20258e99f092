"""Layers that ncnn computes together: activations in convolutions, and rounding between convolutions."""

from collections.abc import Sequence

from srptq_adapters.targets.ncnn_convolutions import CONV, DEPTHWISE, GROUPED_TRANSPOSED, LINEAR, TRANSPOSED
from srptq_adapters.targets.ncnn_elementwise import MUL
from srptq_adapters.targets.ncnn_file import Layer, Value, readers_of

ACTIVATED = (CONV, DEPTHWISE, LINEAR, TRANSPOSED, GROUPED_TRANSPOSED)
ACTIVATION, ACTIVATION_PARAMS = 9, 10
RELU, LEAKY_RELU = 1, 2
NUMBERS = {"Clip": 3, "Sigmoid": 4, "Mish": 5, "HardSwish": 6}


def fuse(layers: Sequence[Layer]) -> Sequence[Layer]:
    """Return fewer layers that compute the same, as ncnn's optimizer makes them."""
    fused = _without_noop(_fuse_activations(_fuse_swish(layers)))
    _requantize(fused)
    return fused


def _without_noop(layers: Sequence[Layer]) -> Sequence[Layer]:
    """Let the layer before it compute the network's output, if nothing else reads that layer."""
    *before, noop = layers
    producer = next(layer for layer in before if noop.inputs[0] in layer.outputs)
    if len(readers_of(layers)[noop.inputs[0]]) > 1 or producer.kind == "Input":
        return layers
    producer.outputs = [noop.outputs[0] if blob == noop.inputs[0] else blob for blob in producer.outputs]
    return before


def _fuse_swish(layers: Sequence[Layer]) -> list[Layer]:
    """Let one layer compute a tensor times its own sigmoid."""
    readers = readers_of(layers)
    sigmoids = {layer.outputs[0]: layer for layer in layers if layer.kind == "Sigmoid"}
    fused: list[Layer] = []
    for layer in layers:
        gate = next((sigmoids[blob] for blob in layer.inputs if blob in sigmoids), None)
        is_product = gate is not None and {*layer.inputs} == {gate.inputs[0], gate.outputs[0]}
        if gate is None or layer.params != {0: MUL} or not is_product or len(readers[gate.outputs[0]]) > 1:
            fused.append(layer)
        else:
            fused.remove(gate)
            fused.append(Layer("Swish", f"swish{layer.name.removeprefix('binaryop')}", gate.inputs, layer.outputs))
    return fused


def _fuse_activations(layers: Sequence[Layer]) -> list[Layer]:
    """Let convolutions compute the activations that follow them."""
    readers = readers_of(layers)
    producers = {blob: layer for layer in layers for blob in layer.outputs}
    fused: list[Layer] = []
    for layer in layers:
        before, activation = producers.get("".join(layer.inputs)), _activation(layer)
        is_alone = before is not None and len(readers[before.outputs[0]]) == 1
        if before is not None and activation and is_alone and _takes_activation(before):
            before.params |= activation
            before.outputs = layer.outputs
            producers[layer.outputs[0]] = before
        else:
            fused.append(layer)
    return fused


def _takes_activation(layer: Layer) -> bool:
    return layer.kind in ACTIVATED and ACTIVATION not in layer.params


def _activation(layer: Layer) -> dict[int, Value]:
    """Return the parameters that let a convolution compute an activation. Empty for other layers."""
    values = [value for _, value in sorted(layer.params.items()) if isinstance(value, float)]
    number = (LEAKY_RELU if values else RELU) if layer.kind == "ReLU" else NUMBERS.get(layer.kind)
    if number is None:
        return {}
    return {ACTIVATION: number, ACTIVATION_PARAMS: values} if values else {ACTIVATION: number}


def _requantize(layers: Sequence[Layer]) -> None:
    """Let a convolution write integers if nothing but convolutions of one input scale reads it."""
    readers = readers_of(layers)
    for layer in layers:
        if layer.scales is not None:
            scales = {reader.scales.input if reader.scales else None for reader in readers[layer.outputs[0]]}
            layer.scales.output = scales.pop() if len(scales) == 1 else None
