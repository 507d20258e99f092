"""Rewrites of a traced program that leave its values as they are, and give integer kernels operations that they know.

A SiLU becomes a product with a sigmoid, as ONNX has it, and a GELU that is written out becomes one operation. A linear
layer becomes a convolution of 1 x 1, and an einsum a matrix product. Constant factors, batch norms and channel shuffles
become part of a convolution's weights. Operations in place become ordinary ones, and equal operations become one, as in
the ONNX file.
"""

from typing import Any

from torch import fx
from torch.export import ExportedProgram
from torch.export.graph_signature import TensorArgument

from srptq_plugin.graph.channel_shuffles import fold_channel_shuffles
from srptq_plugin.graph.channels_last import put_channels_first
from srptq_plugin.graph.constant_factors import fold_constants
from srptq_plugin.graph.einsums import split_einsums
from srptq_plugin.graph.gelus import join_gelus
from srptq_plugin.graph.program_edits import add_call, aten, is_mutable, iter_memory
from srptq_plugin.graph.writes import make_writes_ordinary


def rewrite(program: ExportedProgram) -> ExportedProgram:
    """Rewrite a program in place, and return it.

    >>> import torch
    >>> program = rewrite(torch.export.export(torch.nn.SiLU(), (torch.zeros(1, 3, 4, 4),)))
    >>> [node.name for node in program.graph.nodes if node.op == "call_function"]
    ['sigmoid_default', 'mul_tensor']
    """
    graph = program.graph
    make_writes_ordinary(graph)
    for node in list(graph.nodes):
        if _is_its_argument(node):
            node.replace_all_uses_with(node.all_input_nodes[0])
    split_silus(graph)
    join_gelus(graph)
    split_einsums(graph)
    put_channels_first(graph)
    fold_channel_shuffles(graph)
    _merge_equal(graph)
    graph.eliminate_dead_code()
    fold_constants(graph, set(map(str, program.graph_signature.user_inputs)))
    graph.eliminate_dead_code()
    _name_outputs(program)
    program.graph_module.recompile()
    return program


def _name_outputs(program: ExportedProgram) -> None:
    """Let a program's signature name the nodes that its graph returns."""
    returned: Any = program.graph.output_node().args[0]
    for spec, node in zip(program.graph_signature.output_specs, returned, strict=True):
        if isinstance(spec.arg, TensorArgument):
            spec.arg = TensorArgument(node.name)


def _is_its_argument(node: fx.Node) -> bool:
    """Tell whether a node is a concat of one tensor, or a conversion to the type that its tensor has."""
    if node.target is aten.type_as.default:
        return node.meta["val"].dtype == node.all_input_nodes[0].meta["val"].dtype
    tensors: Any = node.args[0] if node.target is aten.cat.default else ()
    return len(tensors) == len(node.all_input_nodes) == 1


def split_silus(graph: fx.Graph) -> None:
    """Compute every SiLU as a product with a sigmoid, in place."""
    for silu in graph.find_nodes(op="call_function", target=aten.silu.default):
        image = silu.args[0]
        with graph.inserting_before(silu):
            gate = add_call(graph, aten.sigmoid.default, (image,), silu)
            product = add_call(graph, aten.mul.Tensor, (image, gate), silu)
        silu.replace_all_uses_with(product)
        graph.erase_node(silu)


def _merge_equal(graph: fx.Graph) -> None:
    """Let one operation stand for all that do the same with the same tensors, unless a tensor is changed in place."""
    known: dict[Any, fx.Node] = {}
    written = {part for node in graph.nodes if is_mutable(node) for part in iter_memory(node.args[0])}
    for node in list(graph.nodes):
        if node.op != "call_function" or is_mutable(node) or written & {node, *node.all_input_nodes}:
            continue
        key = node.target, repr(node.args), repr(node.kwargs)  # the names of nodes are unique
        first = known.setdefault(key, node)
        if first is not node:
            node.replace_all_uses_with(first)
            graph.erase_node(node)
