"""Stages and blocks of a network, derived from its dataflow and never from names."""

from collections import defaultdict
from collections.abc import Iterable
from typing import Literal, get_args

from torch import fx

from srptq_plugin.graph.network import MOVEMENT, UPSAMPLING, Network

Stage = Literal["head", "body", "upsample", "tail"]
STAGES: tuple[Stage, ...] = get_args(Stage)
_THROUGH = MOVEMENT | {"relu", "leaky_relu", "prelu"}
_CONVS_IN_A_BLOCK = 2


class Stages:
    """The stage of each operation.

    `head`: the first convolutions. `tail`: the last ones. `upsample`: convolutions that feed an upsampling
    operation, or that follow one before the tail. `body`: the rest.
    """

    def __init__(self, network: Network) -> None:
        self._network = network
        self._after_conv = self._downstream(network.convs)
        self._before_conv = self._upstream(network.convs)
        # Upsampling of the image itself, as in a bicubic skip, opens no stage.
        learned = [n for n, op in network.ops.items() if op in UPSAMPLING and n in self._after_conv]
        self._after_upsampling = self._downstream(learned)
        self._feeding = {conv for conv in network.convs if self._feeds_upsampling(conv)}
        self._tails = [conv for conv in network.convs if self._conv_stage(conv) == "tail"]
        self._after_tail = self._downstream(self._tails)

    def of(self, node: fx.Node) -> Stage:
        """Return the stage of an operation."""
        network = self._network
        if network.ops[node] == "conv" and not network.is_mean_shift(node):
            return self._conv_stage(node)
        if node in self._after_tail and node not in self._before_conv:
            return "tail"
        if node not in self._after_conv:
            return "head"
        return "upsample" if node in self._after_upsampling or self._follows_feeder(node) else "body"

    def _conv_stage(self, conv: fx.Node) -> Stage:
        if conv not in self._after_conv:
            return "head"
        if conv not in self._before_conv:
            return "tail"
        return "upsample" if conv in self._feeding or conv in self._after_upsampling else "body"

    def _downstream(self, sources: Iterable[fx.Node]) -> set[fx.Node]:
        """Return the nodes that depend on any source. A source counts only if it depends on another."""
        reached, seeds = set[fx.Node](), set(sources)
        for node in self._network.ops:
            if any(s in reached or s in seeds for _, s in self._network.edges_in(node)):
                reached.add(node)
        return reached

    def _upstream(self, sinks: Iterable[fx.Node]) -> set[fx.Node]:
        """Return the nodes that any sink depends on. A sink counts only if another depends on it."""
        reached, seeds = set[fx.Node](), set(sinks)
        for node in reversed(list(self._network.ops)):
            if any(u in reached or u in seeds for u, _ in self._network.edges_out(node)):
                reached.add(node)
        return reached

    def _feeds_upsampling(self, node: fx.Node) -> bool:
        users = [user for user, _ in self._network.edges_out(node)]
        ops = {user: self._network.ops[user] for user in users}
        return any(op in UPSAMPLING or (op in _THROUGH and self._feeds_upsampling(user)) for user, op in ops.items())

    def _follows_feeder(self, node: fx.Node) -> bool:
        sources = [source for _, source in self._network.edges_in(node)]
        return self._network.ops[node] in _THROUGH and any(
            source in self._feeding or self._follows_feeder(source) for source in sources
        )


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
