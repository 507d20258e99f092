"""The translation of a float ONNX network and a quant table to ncnn's layers."""

from collections.abc import Sequence

from onnx import ModelProto

from srptq_adapters.targets.ncnn_convolutions import Convolutions
from srptq_adapters.targets.ncnn_elementwise import ELEMENTWISE
from srptq_adapters.targets.ncnn_file import Layer
from srptq_adapters.targets.ncnn_fusion import fuse
from srptq_adapters.targets.ncnn_graph import NcnnGraph
from srptq_adapters.targets.ncnn_images import IMAGES
from srptq_plugin.deploy.quant_table import QuantTable

OPERATIONS = {**ELEMENTWISE, **IMAGES}
WEIGHTED = ("Conv", "ConvTranspose", "Gemm")


def translate(model: ModelProto, table: QuantTable) -> Sequence[Layer]:
    """Return the layers of a network, with the integers of a quant table.

    Raises:
        SrptqError: ncnn does not compute an operation. The message names it and its place.
    """
    graph = NcnnGraph(model)
    convolutions = Convolutions(graph, table)
    for node in model.graph.node:
        if node.op_type == "Constant" or node.output[0] in graph.done or graph.compute_sizes(node):
            continue
        if node.op_type in WEIGHTED:
            convolutions.translate(node)
        elif node.op_type in OPERATIONS:
            OPERATIONS[node.op_type](graph, node)
        else:
            raise graph.refusal(node)
    return fuse(graph.finish(model.graph.output[0].name))
