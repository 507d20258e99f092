"""The translation of a float ONNX network and a quant table to ncnn's layers."""

from collections.abc import Sequence

from onnx import ModelProto

from srptq_adapters.targets.ncnn_convolutions import Convolutions, fuse_activations, requantize
from srptq_adapters.targets.ncnn_elementwise import ELEMENTWISE, MUL
from srptq_adapters.targets.ncnn_file import Layer, readers_of
from srptq_adapters.targets.ncnn_graph import NcnnGraph
from srptq_adapters.targets.ncnn_images import IMAGES
from srptq_plugin.deploy.quant_table import QuantTable


def translate(model: ModelProto, table: QuantTable) -> list[Layer]:
    """Return the layers of a network, with the integers of a quant table.

    Raises:
        SrptqError: ncnn does not compute an operation. The message names it and its place.
    """
    graph = NcnnGraph(model)
    operations = {**ELEMENTWISE, **IMAGES, **Convolutions(graph, table).operations}
    for node in model.graph.node:
        if node.op_type == "Constant" or node.output[0] in graph.done or graph.compute_sizes(node):
            continue
        if node.op_type not in operations:
            raise graph.refusal(node)
        operations[node.op_type](graph, node)
    layers = fuse_activations(fuse_swish(graph.finish(model.graph.output[0].name)))
    requantize(layers)
    return layers


def fuse_swish(layers: Sequence[Layer]) -> list[Layer]:
    """Let one Swish layer compute a tensor times its own sigmoid."""
    readers = readers_of(layers)
    sigmoids = {layer.outputs[0]: layer for layer in layers if layer.kind == "Sigmoid"}
    fused: list[Layer] = []
    for layer in layers:
        gate = next((sigmoids[blob] for blob in layer.inputs if blob in sigmoids), None)
        is_swish = gate is not None and {*layer.inputs} == {gate.inputs[0], gate.outputs[0]}
        if gate is None or layer.params != {0: MUL} or not is_swish or len(readers[gate.outputs[0]]) > 1:
            fused.append(layer)
        else:
            fused.remove(gate)
            fused.append(Layer("Swish", layer.name.replace("binaryop", "swish"), [gate.inputs[0]], layer.outputs))
    return fused
