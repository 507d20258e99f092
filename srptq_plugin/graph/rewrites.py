"""Rewrites of a traced program that leave its values as they are, and give integer kernels operations that they know.

A SiLU becomes a product with a sigmoid, as ONNX has it. A linear layer over channels becomes a convolution of 1 x 1.
Constant factors and batch norms become part of the weights of a convolution beside them. Operations in place become
ordinary ones, and what is computed twice is computed once, as in the ONNX file.
"""

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch._ops import OpOverload
from torch.export import ExportedProgram

from srptq_plugin.graph.network import IMAGE_AXES

aten: Any = torch.ops.aten
GROUPS = 6
"""The place of the number of groups among the arguments of a convolution."""
CHANNELS_LAST, CHANNELS_FIRST = (0, 2, 3, 1), (0, 3, 1, 2)
POINTWISE = frozenset(
    {aten.relu.default, aten.gelu.default, aten.sigmoid.default, aten.leaky_relu.default, aten.tanh.default}
    | {aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor}
)
"""Operations that give the same values in any order of the axes."""


def rewrite(program: ExportedProgram) -> ExportedProgram:
    """Rewrite a program in place, and return it.

    >>> from torch import nn
    >>> program = rewrite(torch.export.export(nn.SiLU(), (torch.zeros(1, 3, 4, 4),)))
    >>> [node.name for node in program.graph.nodes if node.op == "call_function"]
    ['sigmoid', 'mul']
    """
    graph, images = program.graph, set(program.graph_signature.user_inputs)
    for node in list(graph.nodes):
        _leave_argument_alone(node)
        if node.target is aten.cat.default and len(node.all_input_nodes) == len(node.args[0]) == 1:
            node.replace_all_uses_with(node.all_input_nodes[0])
        elif node.target is aten.silu.default:
            _split_silu(graph, node)
        elif node.target is aten.linear.default:
            _to_convolution(graph, node)
        elif node.target in POINTWISE or node.target is aten.cat.default:
            _permute_later(graph, node)
        elif node.target is aten.permute.default:
            _cancel(node)
    _merge_equal(graph)
    graph.eliminate_dead_code()
    for node in list(graph.nodes):
        if node.target is aten.mul.Tensor:
            _fold_factor(graph, node, images)
        elif node.target is aten.batch_norm.default:
            _fold_batch_norm(graph, node)
    graph.eliminate_dead_code()
    program.graph_module.recompile()
    return program


def _leave_argument_alone(node: fx.Node) -> None:
    """Let an operation in place make a new tensor, which a gradient needs if another operation keeps the old one.

    Tensors that share memory with others, as slices do, are left alone.
    """
    source = node.args[0] if node.args else None
    if not isinstance(node.target, OpOverload) or not isinstance(source, fx.Node):
        return
    namespace, _, name = node.target.name().partition("::")
    function, overload = name.partition(".")[0], node.target._overloadname  # noqa: SLF001 - torch tells in no other way
    ordinary = getattr(getattr(getattr(torch.ops, namespace), function.removesuffix("_"), None), overload, None)
    if function == function.removesuffix("_") or ordinary is None or source.op == "placeholder":
        return
    if any(_is_view(other) for other in (source, *source.users)):
        return
    node.target = ordinary
    later = set(list(node.graph.nodes)[list(node.graph.nodes).index(node) + 1 :])
    source.replace_all_uses_with(node, delete_user_cb=lambda user: user in later)


def _is_view(node: fx.Node) -> bool:
    if not isinstance(node.target, OpOverload):
        return False
    aliases = (result.alias_info for result in node.target._schema.returns)  # noqa: SLF001
    return any(alias is not None and not alias.is_write for alias in aliases)


def _split_silu(graph: fx.Graph, silu: fx.Node) -> None:
    image = silu.args[0]
    with graph.inserting_before(silu):
        gate = _call(graph, aten.sigmoid.default, (image,), silu)
        product = _call(graph, aten.mul.Tensor, (image, gate), silu)
    silu.replace_all_uses_with(product)
    graph.erase_node(silu)


def _to_convolution(graph: fx.Graph, linear: fx.Node) -> None:
    """Let a linear layer behind a permutation to channels last stand before it, as a convolution."""
    source, weight, *bias = linear.args
    image = _channels_first(source)
    if image is None or not isinstance(weight, fx.Node):
        return
    outputs, inputs = weight.meta["val"].shape
    with graph.inserting_before(linear):
        kernel = _call(graph, aten.reshape.default, (weight, [outputs, inputs, 1, 1]), linear)
        conv = _call(graph, aten.conv2d.default, (image, kernel, *bias), linear)
        moved = _call(graph, aten.permute.default, (conv, list(CHANNELS_LAST)), linear)
    linear.replace_all_uses_with(moved)
    graph.erase_node(linear)


def _permute_later(graph: fx.Graph, node: fx.Node) -> None:
    """Compute channels first what reads permuted tensors and constants only, and permute the result."""
    target: Any = node.target
    with graph.inserting_before(node):
        if target is aten.cat.default:
            args = _concatenated(node)
        else:
            args = [_as_channels_first(graph, argument) for argument in node.args]
        if args is None or None in args:
            return
        result = _call(graph, target, args, node, node.kwargs)
        moved = _call(graph, aten.permute.default, (result, list(CHANNELS_LAST)), node)
    node.replace_all_uses_with(moved)
    graph.erase_node(node)


def _concatenated(cat: fx.Node) -> list[Any] | None:
    """Return the arguments of a concat of channels, channels first."""
    tensors: Any = cat.args[0]
    images = [_channels_first(tensor) for tensor in tensors]
    return [images, 1] if None not in images and cat.args[1:] in ((-1,), (3,)) else None


def _as_channels_first(graph: fx.Graph, argument: Any) -> Any:
    """Return a permuted tensor as it was, a value for each channel in the shape of an image, or a number."""
    if not isinstance(argument, fx.Node):
        return argument
    shape = argument.meta["val"].shape
    if not shape:
        return argument
    if all(side == 1 for side in shape[:-1]):
        return _call(graph, aten.reshape.default, (argument, [shape[-1], 1, 1]), argument)
    return _channels_first(argument)


def _cancel(permute: fx.Node) -> None:
    """Let the readers of a permutation to channels first read the tensor from before the one to channels last."""
    image = _channels_first(permute.args[0])
    if image is not None and _axes(permute) == CHANNELS_FIRST:
        permute.replace_all_uses_with(image)


def _fold_factor(graph: fx.Graph, product: fx.Node, images: Collection[str]) -> None:
    """Multiply the weights of the convolution before a product with constants, or else of those behind it."""
    image, factor = product.args
    if not isinstance(image, fx.Node) or _is_constant(image, images):
        image, factor = factor, image
    if not isinstance(image, fx.Node) or not _is_constant(factor, images) or not _is_per_channel(factor):
        return
    if factor == 1:
        product.replace_all_uses_with(image)
    elif image.target is aten.conv2d.default and len(image.users) == 1:
        with graph.inserting_before(product):
            weight, *bias = image.args[1:3]
            scaled = [_scaled(graph, image, weight, factor, (-1, 1, 1, 1))]
            scaled += [part and _scaled(graph, image, part, factor, (-1,)) for part in bias]
            conv = _call(graph, aten.conv2d.default, (image.args[0], *scaled, *image.args[3:]), image)
        product.replace_all_uses_with(conv)
    elif product.users and all(_reads_all_channels(user, product) for user in product.users):
        for conv in list(product.users):
            with graph.inserting_before(conv):
                conv.update_arg(1, _scaled(graph, conv, conv.args[1], factor, (1, -1, 1, 1)))
        product.replace_all_uses_with(image)


def _fold_batch_norm(graph: fx.Graph, norm: fx.Node) -> None:
    """Let the convolution before a batch norm compute it, if no other operation reads that convolution."""
    conv, gain, shift, mean, variance, _, _, eps, *_ = norm.args
    if not isinstance(conv, fx.Node) or conv.target is not aten.conv2d.default or len(conv.users) > 1:
        return
    if mean is None or variance is None:
        return
    with graph.inserting_before(norm):
        factor = _call(graph, aten.rsqrt.default, (_call(graph, aten.add.Tensor, (variance, eps), norm),), norm)
        factor = factor if gain is None else _call(graph, aten.mul.Tensor, (factor, gain), norm)
        weight = _scaled(graph, conv, conv.args[1], factor, (-1, 1, 1, 1))
        bias: Any = conv.args[2] if len(conv.args) > 2 else None  # noqa: PLR2004 - input, weight, bias
        centered = _call(
            graph, *((aten.neg.default, (mean,)) if bias is None else (aten.sub.Tensor, (bias, mean))), norm
        )
        offset = _call(graph, aten.mul.Tensor, (centered, factor), norm)
        offset = offset if shift is None else _call(graph, aten.add.Tensor, (offset, shift), norm)
        folded = _call(graph, aten.conv2d.default, (conv.args[0], weight, offset, *conv.args[3:]), conv)
    norm.replace_all_uses_with(folded)


def _merge_equal(graph: fx.Graph) -> None:
    """Let one operation stand for all that do the same with the same tensors, unless a tensor is changed in place."""
    known: dict[Any, fx.Node] = {}
    written = {part for node in graph.nodes if _is_mutable(node) for part in _memory_of(node.args[0])}
    for node in list(graph.nodes):
        if node.op != "call_function" or _is_mutable(node) or written & {node, *node.all_input_nodes}:
            continue
        key = node.target, repr(node.args), repr(node.kwargs)  # the names of nodes are unique
        first = known.setdefault(key, node)
        if first is not node:
            node.replace_all_uses_with(first)
            graph.erase_node(node)


def _memory_of(node: Any) -> Iterator[fx.Node]:
    """Yield a tensor, and those that it is a view of."""
    while isinstance(node, fx.Node):
        yield node
        node = node.args[0] if _is_view(node) else None


def _is_mutable(node: fx.Node) -> bool:
    return isinstance(node.target, OpOverload) and node.target._schema.is_mutable  # noqa: SLF001


def _is_constant(value: Any, images: Collection[str]) -> bool:
    if not isinstance(value, fx.Node):
        return isinstance(value, (int, float))
    if value.op == "placeholder":
        return value.name not in images
    sources = value.all_input_nodes
    return value.op == "get_attr" or (bool(sources) and all(_is_constant(source, images) for source in sources))


def _is_per_channel(factor: Any) -> bool:
    """Tell whether a constant is one number, or one number for each channel of an image."""
    shape = factor.meta["val"].shape if isinstance(factor, fx.Node) else ()
    return all(side == 1 for side in shape) or tuple(shape[1:] if len(shape) == IMAGE_AXES else shape)[1:] == (1, 1)


def _reads_all_channels(conv: fx.Node, image: fx.Node) -> bool:
    is_conv = conv.target is aten.conv2d.default and conv.args[0] is image and image not in conv.args[1:]
    return is_conv and (len(conv.args) <= GROUPS or conv.args[GROUPS] == 1)


def _scaled(graph: fx.Graph, conv: fx.Node, values: Any, factor: Any, shape: Sequence[int]) -> fx.Node:
    """Multiply the weights or biases of a convolution by a number, or by factors in the shape of their channels."""
    if isinstance(factor, fx.Node):
        factor = _call(graph, aten.reshape.default, (factor, list(shape)), conv)
    return _call(graph, aten.mul.Tensor, (values, factor), conv)


def _channels_first(node: Any) -> fx.Node | None:
    """Return the tensor that a node permutes to channels last, or None if it does nothing of the kind."""
    is_permuted = isinstance(node, fx.Node) and node.target is aten.permute.default and _axes(node) == CHANNELS_LAST
    source = node.args[0] if is_permuted else None
    return source if isinstance(source, fx.Node) else None


def _axes(permute: fx.Node) -> tuple[int, ...]:
    axes: Any = permute.args[1]
    return tuple(axis % len(axes) for axis in axes)


def _call(graph: fx.Graph, target: Any, args: Sequence[Any], origin: fx.Node, kwargs: Any = None) -> fx.Node:
    """Append a call that belongs to the module of another node, with the shape that it gives."""
    call = graph.call_function(target, tuple(args), dict(kwargs or {}))
    call.meta = dict(origin.meta)
    values = fx.map_arg((call.args, call.kwargs), lambda node: node.meta["val"])
    result: Tensor = target(*values[0], **values[1])
    call.meta["val"] = result
    return call
