"""Operations on tensors with channels last, moved in front of the permutation that puts them there.

A linear layer is a convolution of 1 x 1, for which targets have integer kernels. Tokens, [batch, tokens, channels], are
an image of width 1.
"""

from typing import Any

from torch import fx

from srptq_plugin.graph.network import IMAGE_AXES
from srptq_plugin.graph.program_edits import add_call, aten

CHANNELS_LAST, CHANNELS_FIRST = (0, 2, 3, 1), (0, 3, 1, 2)
TOKENS = 3
"""The number of axes of a tensor of tokens: batch, tokens and channels."""
WIDTH = 2
"""The axis of the width in an image with channels last."""
POINTWISE = frozenset(
    {aten.relu.default, aten.gelu.default, aten.sigmoid.default, aten.leaky_relu.default, aten.tanh.default}
    | {aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor}
)
"""Operations that give the same values in any order of the axes."""


def put_channels_first(graph: fx.Graph) -> None:
    """Rewrite a graph in place, from its inputs to its outputs."""
    for node in list(graph.nodes):
        if node.target is aten.linear.default:
            _to_convolution(graph, node)
        elif node.target in POINTWISE or node.target is aten.cat.default:
            _permute_later(graph, node)
        elif node.target is aten.permute.default:
            _cancel(node)


def _to_convolution(graph: fx.Graph, linear: fx.Node) -> None:
    """Compute a linear layer as a convolution, before the permutation to channels last if there is one."""
    source, weight, *bias = linear.args
    if not isinstance(source, fx.Node) or not isinstance(weight, fx.Node) or _rank(source) not in (TOKENS, IMAGE_AXES):
        return
    outputs, inputs = weight.meta["val"].shape
    with graph.inserting_before(linear):
        image = _channels_first(source) or _put_first(graph, source)
        kernel = add_call(graph, aten.reshape.default, (weight, [outputs, inputs, 1, 1]), linear)
        conv = add_call(graph, aten.conv2d.default, (image, kernel, *bias), linear)
        moved = _put_last(graph, conv, linear)
    linear.replace_all_uses_with(moved)
    graph.erase_node(linear)


def _permute_later(graph: fx.Graph, node: fx.Node) -> None:
    """Compute channels first what reads permuted tensors and constants only, and permute the result."""
    # Values for each channel alone may also be a pooled map of one image, which has its channels first already.
    if all(_channels_first(source) is None for source in node.all_input_nodes):
        return
    target: Any = node.target
    with graph.inserting_before(node):
        if target is aten.cat.default:
            args = _concatenated(node)
        else:
            args = [_as_channels_first(graph, argument, _rank(node)) for argument in node.args]
        if args is None or None in args:
            return
        moved = _put_last(graph, add_call(graph, target, args, node, node.kwargs), node)
    node.replace_all_uses_with(moved)
    graph.erase_node(node)


def _put_first(graph: fx.Graph, source: fx.Node) -> fx.Node:
    """Permute a tensor to channels first. Tokens become an image of width 1."""
    if _rank(source) == TOKENS:
        source = add_call(graph, aten.unsqueeze.default, (source, WIDTH), source)
    return add_call(graph, aten.permute.default, (source, list(CHANNELS_FIRST)), source)


def _put_last(graph: fx.Graph, image: fx.Node, origin: fx.Node) -> fx.Node:
    """Permute an image to channels last, with as many axes as the operation that it stands for."""
    moved = add_call(graph, aten.permute.default, (image, list(CHANNELS_LAST)), origin)
    return add_call(graph, aten.squeeze.dim, (moved, WIDTH), origin) if _rank(origin) == TOKENS else moved


def _concatenated(cat: fx.Node) -> list[Any] | None:
    """Return the arguments of a concat of channels, channels first."""
    tensors: Any = cat.args[0]
    images = [_channels_first(tensor) for tensor in tensors]
    over_channels = cat.args[1:] in ((-1,), (_rank(cat) - 1,))
    return [images, 1] if None not in images and over_channels else None


def _as_channels_first(graph: fx.Graph, argument: Any, rank: int) -> Any:
    """Return a permuted tensor as it was, a value for each channel in the shape of an image, or a number."""
    if not isinstance(argument, fx.Node) or not getattr(argument.meta["val"], "shape", ()):
        return argument
    shape = argument.meta["val"].shape
    if all(side == 1 for side in shape[:-1]):
        return add_call(graph, aten.reshape.default, (argument, [shape[-1], 1, 1]), argument)
    return _channels_first(argument) if _rank(argument) == rank else None


def _cancel(permute: fx.Node) -> None:
    """Let the readers of a permutation to channels first read the tensor from before the one to channels last."""
    image = _channels_first(permute.args[0])
    if image is not None and _axes(permute) == CHANNELS_FIRST:
        permute.replace_all_uses_with(image)


def _channels_first(node: Any) -> fx.Node | None:
    """Return the image whose channels a node has last, or None if it permutes none."""
    if isinstance(node, fx.Node) and node.target is aten.squeeze.dim and node.args[1] == WIDTH:
        node = node.args[0]
    is_permuted = isinstance(node, fx.Node) and node.target is aten.permute.default and _axes(node) == CHANNELS_LAST
    source = node.args[0] if is_permuted else None
    return source if isinstance(source, fx.Node) else None


def _rank(node: fx.Node) -> int:
    return node.meta["val"].ndim


def _axes(permute: fx.Node) -> tuple[int, ...]:
    axes: Any = permute.args[1]
    return tuple(axis % len(axes) for axis in axes)
