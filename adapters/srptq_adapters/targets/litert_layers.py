"""The translation of a float ONNX network and a quant table to a LiteRT file."""

from onnx import ModelProto, NodeProto

from srptq_adapters.targets.litert_convolutions import conv, linear, transposed
from srptq_adapters.targets.litert_elementwise import ELEMENTWISE
from srptq_adapters.targets.litert_graph import Integers, LiteRtGraph
from srptq_adapters.targets.litert_images import IMAGES
from srptq_adapters.targets.litert_norms import NORMS
from srptq_adapters.targets.litert_sizes import FOLDED
from srptq_plugin.deploy.qdq import Placer
from srptq_plugin.deploy.quant_table import QuantTable
from srptq_plugin.graph.types import Size

USUAL_SIDE = 64
"""The height and width at which a file for any size is written."""


def translate(model: ModelProto, table: QuantTable | None, *, integers: bool = False) -> bytes:
    """Return the file of a network, with the integers of a quant table.

    Args:
        integers: Whether the file takes and gives images of integers, where the table has them.

    Raises:
        SrptqError: LiteRT's files do not hold an operation. The message names it and its place.
    """
    size, fixed = _size(model)
    placed = Placer(model, table).place() if table else model
    graph = LiteRtGraph(placed, size, fixed=fixed, integers=integers)
    sizes: set[str] = set()
    for node in graph.onnx.nodes:
        if node.op_type == "Constant" or node.output[0] in graph.done:
            continue
        reads_sizes = any(value in sizes for value in node.input)
        if node.op_type == "Shape" or (reads_sizes and node.op_type in FOLDED):
            sizes.update(node.output)
        elif reads_sizes:
            raise graph.refusal_of_sizes(node, "by sizes that follow the image's")
        elif node.op_type in OPERATIONS:
            OPERATIONS[node.op_type](graph, node)
        else:
            raise graph.refusal(node)
    return graph.finish(integers=integers)


def _size(model: ModelProto) -> tuple[Size, bool]:
    """Return the size of image at which a file is written, and whether it is the only one."""
    _, channels, height, width = (d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim)
    fixed = bool(height and width)
    return (1, channels, height or USUAL_SIDE, width or USUAL_SIDE), fixed


def _quantize(graph: LiteRtGraph, node: NodeProto) -> None:
    encoding = graph.read_encoding(node)
    graph.store(node.output[0], graph.tensor(node.input[0], encoding), encoding)


def _dequantize(graph: LiteRtGraph, node: NodeProto) -> None:
    values, encoding = graph.onnx.constant(node.input[0]), graph.read_encoding(node)
    if values is None or encoding is None:
        graph.alias(node)
    else:
        graph.store_constant(node.output[0], Integers(values, encoding))


OPERATIONS = {
    **ELEMENTWISE,
    **IMAGES,
    **NORMS,
    "Conv": conv,
    "ConvTranspose": transposed,
    "DequantizeLinear": _dequantize,
    "Gemm": linear,
    "QuantizeLinear": _quantize,
}
