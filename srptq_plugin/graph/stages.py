"""Stages and blocks of a network, derived from its dataflow and never from names."""

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Literal, get_args

from torch import SymInt, fx

from srptq_plugin.graph.network import IMAGE_AXES, INPUT, MOVEMENT, OUTPUT, UPSAMPLING, Network

Stage = Literal["head", "body", "upsample", "tail"]
STAGES: tuple[Stage, ...] = get_args(Stage)
_THROUGH = MOVEMENT | {"relu", "leaky_relu", "prelu"}
_SIZED = UPSAMPLING | {INPUT, "conv"}
"""Operations whose outputs have height and width as their last axes. Others may have channels there."""
_CONVS_IN_A_BLOCK = 2


class Stages:
    """The stage of each operation.

    `head`: the first convolutions. `tail`: the last ones. `upsample`: convolutions that feed an upsampling of the
    network, or that follow one before the tail, and transposed convolutions that are one. `body`: the rest.

    An upsampling of the network makes maps larger than the head's, and they stay larger up to the output. Attention
    and U-Nets only restore a size. In a graph without shapes every upsampling operation counts.
    """

    def __init__(self, network: Network) -> None:
        self._network = network
        self._layers = {*network.convs, *(node for node, op in network.ops.items() if op == "conv_transpose")}
        self._after_layer = network.downstream(self._layers)
        self._before_layer = network.upstream(self._layers)
        # Upsampling of the image itself, as in a bicubic skip, opens no stage.
        self._upsampling = self._find_upsampling() & self._after_layer
        self._after_upsampling = network.downstream(self._upsampling)
        self._feeding = {layer for layer in self._layers if self._feeds_upsampling(layer)}
        self._growing = self._upsampling | self._after_upsampling | self._feeding
        self._tails = [layer for layer in self._layers if self._layer_stage(layer) == "tail"]
        self._after_tail = network.downstream(self._tails)

    def of(self, node: fx.Node) -> Stage:
        """Return the stage of an operation."""
        if node in self._layers:
            return self._layer_stage(node)
        if node in self._after_tail and node not in self._before_layer:
            return "tail"
        if node not in self._after_layer:
            return "head"
        return "upsample" if node in self._after_upsampling or self._follows_feeder(node) else "body"

    def _layer_stage(self, layer: fx.Node) -> Stage:
        if layer not in self._after_layer:
            return "head"
        if layer not in self._before_layer:
            return "tail"
        return "upsample" if layer in self._growing else "body"

    def _find_upsampling(self) -> set[fx.Node]:
        """Return the operations that enlarge maps beyond the working size, up to the output."""
        pixels = dict(_pixels(self._network))
        working = self._working_pixels(pixels)
        enlarged = set[fx.Node]()
        for node in reversed(list(self._network.ops)):
            users = [user for user, _ in self._network.edges_out(node)]
            reaches = any(user in enlarged or self._network.ops[user] == OUTPUT for user in users)
            if reaches and pixels.get(node, math.inf) > working:
                enlarged.add(node)
        return {node for node in enlarged if self._network.ops[node] in UPSAMPLING}

    def _working_pixels(self, pixels: Mapping[fx.Node, int]) -> int:
        """Return the pixels of the head's output. The head of some networks shrinks the image."""
        heads = [pixels.get(conv, 0) for conv in self._network.convs if conv not in self._after_layer]
        # A second head may read an enlarged image, for a skip. Only if no other exists, the network works at its size.
        fitting = [size for size in heads if size <= pixels.get(self._network.input, 0)]
        return max(fitting or heads, default=0)

    def _feeds_upsampling(self, node: fx.Node) -> bool:
        """Tell whether only upsampling reads a tensor. A transposed convolution has its own weights for that."""
        users = [user for user, _ in self._network.edges_out(node)]
        return bool(users) and all(
            user not in self._layers
            and (user in self._upsampling or (self._network.ops[user] in _THROUGH and self._feeds_upsampling(user)))
            for user in users
        )

    def _follows_feeder(self, node: fx.Node) -> bool:
        sources = [source for _, source in self._network.edges_in(node)]
        return self._network.ops[node] in _THROUGH and any(
            source in self._feeding or self._follows_feeder(source) for source in sources
        )


def _pixels(network: Network) -> Iterator[tuple[fx.Node, int]]:
    """Yield the product of height and width at the traced size, for maps with a known shape."""
    for node, op in network.ops.items():
        shape = getattr(node.meta.get("val"), "shape", ())
        if op in _SIZED and len(shape) == IMAGE_AXES:
            # int() of a symbol would fix the graph to this size.
            sides = [side.node.hint if isinstance(side, SymInt) else side for side in shape[2:]]
            if None not in sides:
                yield node, math.prod(sides)


def find_blocks(network: Network) -> tuple[fx.Node, ...]:
    """Return the outputs of the blocks, or the convolutions if there are no blocks.

    Blocks are repeated sibling modules of one class with two or more convolutions. Inner blocks belong to outer ones.
    """
    outputs = [_find_output(network, path) for path in block_paths(network)]
    return tuple(node for node in outputs if node is not None) or network.convs


def block_paths(network: Network) -> list[str]:
    """Return the module paths of the blocks."""
    members, convs = _list_modules(network)
    families: dict[tuple[str, str], list[str]] = defaultdict(list)
    for path, kind in members.items():
        if len({network.keys[conv].path for conv in convs[path]}) >= _CONVS_IN_A_BLOCK:
            # The class of a plain container such as nn.Sequential says nothing. The shapes of its weights do.
            alike = f"{kind}{_weight_shapes(network, convs[path])}" if "container" in kind else kind
            families[path.rpartition(".")[0], alike].append(path)
    repeated = [path for family in families.values() if len(family) > 1 for path in family]
    return [path for path in repeated if not any(path.startswith(outer + ".") for outer in repeated)]


def _list_modules(network: Network) -> tuple[dict[str, str], dict[str, list[fx.Node]]]:
    """Return the class of every module path, and the convolutions inside it."""
    kinds: dict[str, str] = {}
    convs: dict[str, list[fx.Node]] = defaultdict(list)
    planned = set(network.convs)
    for node in network.ops:
        for path, kind in _stack(node):
            kinds[path] = kind
            if node in planned:
                convs[path].append(node)
    return kinds, convs


def _weight_shapes(network: Network, convs: list[fx.Node]) -> list[tuple[int, ...]]:
    parameters = [network.parameter(conv, 1) for conv in convs]
    return [tuple(parameter[1].shape) for parameter in parameters if parameter]


def _stack(node: fx.Node) -> list[tuple[str, str]]:
    entries = (node.meta.get("nn_module_stack") or {}).values()
    return [(entry[0].split("@")[0], str(entry[1])) for entry in entries if entry[0]]


def _find_output(network: Network, path: str) -> fx.Node | None:
    """Return the last node of a module that something outside the module reads."""
    inside = [node for node in network.ops if any(path == outer for outer, _ in _stack(node))]
    within = set(inside)
    read = [node for node in inside if any(user not in within for user, _ in network.edges_out(node))]
    return read[-1] if read else None
