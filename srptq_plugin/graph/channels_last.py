"""Operations on tensors with channels last, moved in front of the permutation that puts them there.

A linear layer over channels is a convolution of 1 x 1, for which targets have integer kernels.
"""

from typing import Any

from torch import fx

from srptq_plugin.graph.program_edits import add_call, aten

CHANNELS_LAST, CHANNELS_FIRST = (0, 2, 3, 1), (0, 3, 1, 2)
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
    """Let a linear layer behind a permutation to channels last stand before it, as a convolution."""
    source, weight, *bias = linear.args
    image = _channels_first(source)
    if image is None or not isinstance(weight, fx.Node):
        return
    outputs, inputs = weight.meta["val"].shape
    with graph.inserting_before(linear):
        kernel = add_call(graph, aten.reshape.default, (weight, [outputs, inputs, 1, 1]), linear)
        conv = add_call(graph, aten.conv2d.default, (image, kernel, *bias), linear)
        moved = add_call(graph, aten.permute.default, (conv, list(CHANNELS_LAST)), linear)
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
        result = add_call(graph, target, args, node, node.kwargs)
        moved = add_call(graph, aten.permute.default, (result, list(CHANNELS_LAST)), node)
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
        return add_call(graph, aten.reshape.default, (argument, [shape[-1], 1, 1]), argument)
    return _channels_first(argument)


def _cancel(permute: fx.Node) -> None:
    """Let the readers of a permutation to channels first read the tensor from before the one to channels last."""
    image = _channels_first(permute.args[0])
    if image is not None and _axes(permute) == CHANNELS_FIRST:
        permute.replace_all_uses_with(image)


def _channels_first(node: Any) -> fx.Node | None:
    """Return the tensor that a node permutes to channels last, or None if it does nothing of the kind."""
    is_permuted = isinstance(node, fx.Node) and node.target is aten.permute.default and _axes(node) == CHANNELS_LAST
    source = node.args[0] if is_permuted else None
    return source if isinstance(source, fx.Node) else None


def _axes(permute: fx.Node) -> tuple[int, ...]:
    axes: Any = permute.args[1]
    return tuple(axis % len(axes) for axis in axes)
