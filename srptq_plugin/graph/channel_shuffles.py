"""Channel shuffles, folded into the weights of the convolutions that read them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import fx

from srptq_plugin.graph.network import IMAGE_AXES
from srptq_plugin.graph.program_edits import add_call, aten

RESHAPES = frozenset({aten.view.default, aten.reshape.default, aten._unsafe_view.default})  # noqa: SLF001 - torch's name
COPIES = frozenset({aten.contiguous.default, aten.clone.default})
TURNS = frozenset({aten.transpose.int, aten.permute.default})
GROUPS = 6
"""The place of the number of groups among a convolution's arguments."""
SPLIT_AXES = IMAGE_AXES + 1
"""The axes of a map whose channels are split in groups: batch, groups, channels of a group, height and width."""


@dataclass(frozen=True)
class _Shuffle:
    """A channel shuffle: the map that it reads, and its sizes."""

    source: fx.Node
    groups: int
    channels: int


def fold_channel_shuffles(graph: fx.Graph) -> None:
    """Let convolutions read maps before a channel shuffle, with their weights shuffled back, in place.

    A shuffle that anything else reads stays, and so does one before a convolution with groups.
    """
    for node in list(graph.nodes):
        shuffle = _find(node)
        if shuffle is not None and node.users and all(_is_foldable(user, node) for user in node.users):
            for conv in list(node.users):
                _fold(graph, conv, shuffle)


def _is_foldable(conv: fx.Node, source: fx.Node) -> bool:
    arguments: Any = conv.args
    if conv.target is not aten.conv2d.default or arguments[0] is not source or arguments[1] is source:
        return False
    return len(arguments) <= GROUPS or arguments[GROUPS] == 1


def _fold(graph: fx.Graph, conv: fx.Node, shuffle: _Shuffle) -> None:
    weight: Any = conv.args[1]
    outputs, inputs, *kernel = weight.meta["val"].shape
    with graph.inserting_before(conv):
        parts = [outputs, shuffle.channels, shuffle.groups, *kernel]
        split = add_call(graph, aten.reshape.default, (weight, parts), conv)
        turned = add_call(graph, aten.transpose.int, (split, 1, 2), conv)
        own = add_call(graph, aten.reshape.default, (turned, [outputs, inputs, *kernel]), conv)
    conv.args = (shuffle.source, own, *conv.args[2:])


def _find(node: fx.Node) -> _Shuffle | None:
    """Return the channel shuffle that ends in a node, if one does."""
    if node.target is aten.channel_shuffle.default:
        source: Any = node.args[0]
        groups: Any = node.args[1]
        return _Shuffle(source, groups, source.meta["val"].shape[1] // groups)
    chain = list(_iter_chain(node))
    if [kind for _, kind in chain] != ["reshape", "turn", "reshape"]:
        return None
    (_, _), (turn, _), (split, _) = chain
    source = split.args[0]
    before, parts, turned, after = (list(n.meta["val"].shape) for n in (source, split, turn, node))
    if [len(shape) for shape in (before, parts, turned, after)] != [IMAGE_AXES, SPLIT_AXES, SPLIT_AXES, IMAGE_AXES]:
        return None
    groups, channels = parts[1:3]
    swapped = [parts[0], channels, groups, *parts[3:]]
    is_shuffle = isinstance(groups, int) and isinstance(channels, int) and _is_swap(turn)
    # Sizes may be symbols, and comparing symbols would restrict them.
    same = str(before) == str(after) and str(before[2:]) == str(parts[3:]) and str(swapped) == str(turned)
    return _Shuffle(source, groups, channels) if is_shuffle and same else None


def _iter_chain(node: Any) -> Iterator[tuple[fx.Node, str]]:
    """Yield a node and what it reads, as far as these move values and nothing else reads them. Copies are skipped."""
    first = node
    while isinstance(node, fx.Node) and (node is first or len(node.users) == 1):
        kind = "reshape" if node.target in RESHAPES else "turn" if node.target in TURNS else ""
        if not kind and node.target not in COPIES:
            return
        if kind:
            yield node, kind
        node = node.args[0]


def _is_swap(turn: fx.Node) -> bool:
    """Tell whether an operation swaps the second and third axes of five."""
    if turn.target is aten.transpose.int:
        return sorted(axis % SPLIT_AXES for axis in turn.args[1:]) == [1, 2]  # type: ignore[operator]
    order: Any = turn.args[1]
    return [axis % SPLIT_AXES for axis in order] == [0, 2, 1, 3, 4]
