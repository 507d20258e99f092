"""Constant factors and batch norms, folded into the weights of a convolution next to them."""

from collections.abc import Collection, Sequence
from typing import Any

from torch import fx

from srptq_plugin.graph.network import IMAGE_AXES
from srptq_plugin.graph.program_edits import add_call, aten

BIAS, GROUPS = 2, 6
"""The places of two arguments of a convolution."""


def fold_constants(graph: fx.Graph, images: Collection[str]) -> None:
    """Fold what a graph multiplies by constants, in place.

    Args:
        graph: The graph of a program. Its parameters are placeholders.
        images: The names of the placeholders that are no parameters.
    """
    for node in list(graph.nodes):
        if node.target is aten.mul.Tensor:
            _fold_factor(graph, node, images)
        elif node.target is aten.batch_norm.default:
            _fold_batch_norm(graph, node)


def _fold_factor(graph: fx.Graph, product: fx.Node, images: Collection[str]) -> None:
    """Multiply the weights of the convolution before a product with constants, or else of those behind it."""
    image, factor = product.args
    if not isinstance(image, fx.Node) or _is_constant(image, images):
        image, factor = factor, image
    if not isinstance(image, fx.Node) or not _is_constant(factor, images) or not _is_per_channel(factor, image):
        return
    if image.target is aten.conv2d.default and len(image.users) == 1:
        with graph.inserting_before(product):
            weight, *bias = image.args[1:3]
            scaled = [_scaled(graph, image, weight, factor, (-1, 1, 1, 1))]
            scaled += [part and _scaled(graph, image, part, factor, (-1,)) for part in bias]
            conv = add_call(graph, aten.conv2d.default, (image.args[0], *scaled, *image.args[3:]), image)
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
        factor = add_call(graph, aten.rsqrt.default, (add_call(graph, aten.add.Tensor, (variance, eps), norm),), norm)
        factor = factor if gain is None else add_call(graph, aten.mul.Tensor, (factor, gain), norm)
        weight = _scaled(graph, conv, conv.args[1], factor, (-1, 1, 1, 1))
        bias: Any = conv.args[BIAS] if len(conv.args) > BIAS else None
        start, values = (aten.neg.default, (mean,)) if bias is None else (aten.sub.Tensor, (bias, mean))
        centered = add_call(graph, start, values, norm)
        offset = add_call(graph, aten.mul.Tensor, (centered, factor), norm)
        offset = offset if shift is None else add_call(graph, aten.add.Tensor, (offset, shift), norm)
        folded = add_call(graph, aten.conv2d.default, (conv.args[0], weight, offset, *conv.args[3:]), conv)
    norm.replace_all_uses_with(folded)


def _is_constant(value: Any, images: Collection[str]) -> bool:
    if not isinstance(value, fx.Node):
        return isinstance(value, (int, float))
    if value.op == "placeholder":
        return value.name not in images
    sources = value.all_input_nodes
    return value.op == "get_attr" or (bool(sources) and all(_is_constant(source, images) for source in sources))


def _is_per_channel(factor: Any, image: fx.Node) -> bool:
    """Tell whether a constant tensor has one value, or one for each channel of an image.

    A number is left alone: targets multiply by it inside a kernel.
    """
    if not isinstance(factor, fx.Node):
        return False
    shape, channels = tuple(factor.meta["val"].shape), image.meta["val"].shape[1:2]
    own = shape[1:] if len(shape) == IMAGE_AXES and shape[0] == 1 else shape
    return all(side == 1 for side in shape) or own == (*channels, 1, 1)


def _reads_all_channels(conv: fx.Node, image: fx.Node) -> bool:
    is_conv = conv.target is aten.conv2d.default and conv.args[0] is image and image not in conv.args[1:]
    groups: Any = conv.args[GROUPS] if len(conv.args) > GROUPS else 1
    return is_conv and groups == 1


def _scaled(graph: fx.Graph, conv: fx.Node, values: Any, factor: Any, shape: Sequence[int]) -> fx.Node:
    """Multiply the weights or biases of a convolution by a number, or by factors in the shape of their channels."""
    if isinstance(factor, fx.Node):
        factor = add_call(graph, aten.reshape.default, (factor, list(shape)), conv)
    return add_call(graph, aten.mul.Tensor, (values, factor), conv)
