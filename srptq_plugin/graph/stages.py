"""Stages and blocks of a network, found from its dataflow and never from names."""

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
    """Which stage each operation belongs to.

    `head`: the first convolutions. `tail`: the last. `upsample`: those that feed an upsampling
    operation, or follow one and are not the tail. `body`: the rest.
    """

    def __init__(self, network: Network) -> None:
        self._network = network
        self._after_conv = self._downstream(network.convs)
        self._before_conv = self._upstream(network.convs)
        learned = [n for n, op in network.ops.items() if op in UPSAMPLING and n in self._after_conv]
        self._after_upsampling = self._downstream(learned)
        self._feeding = {conv for conv in network.convs if self._feeds_upsampling(conv)}
        self._tails = [conv for conv in network.convs if self._of_conv(conv) == "tail"]
        self._after_tail = self._downstream(self._tails)

    def of(self, node: fx.Node) -> Stage:
        """The stage of any operation."""
        network = self._network
        if network.ops[node] == "conv" and not network.is_mean_shift(node):
            return self._of_conv(node)
        if node in self._after_tail and node not in self._before_conv:
            return "tail"
        if node not in self._after_conv:
            return "head"
        return "upsample" if node in self._after_upsampling or self._follows_feeder(node) else "body"

    def _of_conv(self, conv: fx.Node) -> Stage:
        if conv not in self._after_conv:
            return "head"
        if conv not in self._before_conv:
            return "tail"
        return "upsample" if conv in self._feeding or conv in self._after_upsampling else "body"

    def _downstream(self, sources: Iterable[fx.Node]) -> set[fx.Node]:
        """What depends on any of these, themselves left out."""
        reached, seeds = set[fx.Node](), set(sources)
        for node in self._network.ops:
            if any(s in reached or s in seeds for _, s in self._network.edges_in(node)):
                reached.add(node)
        return reached

    def _upstream(self, sinks: Iterable[fx.Node]) -> set[fx.Node]:
        """What any of these depends on, themselves left out."""
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
    """The outputs of the blocks: repeated sibling modules of one class with two or more convolutions.

    Without any, the convolutions themselves. Blocks within blocks are left to the outer ones.
    """
    outputs = [_output_of(network, path) for path in block_paths(network)]
    return tuple(node for node in outputs if node is not None) or network.convs


def block_paths(network: Network) -> list[str]:
    """The module paths of the blocks, if there are any."""
    members, convs = _modules(network)
    families: dict[tuple[str, str], list[str]] = defaultdict(list)
    for path, kind in members.items():
        if len({network.keys[conv].path for conv in convs[path]}) >= _CONVS_IN_A_BLOCK:
            alike = f"{kind}{_shapes(network, convs[path])}" if "container" in kind else kind
            families[path.rpartition(".")[0], alike].append(path)
    repeated = [path for family in families.values() if len(family) > 1 for path in family]
    return [path for path in repeated if not any(path.startswith(other + ".") for other in repeated)]


def _modules(network: Network) -> tuple[dict[str, str], dict[str, list[fx.Node]]]:
    """The class of every module path, and the convolutions inside it."""
    kinds: dict[str, str] = {}
    convs: dict[str, list[fx.Node]] = defaultdict(list)
    planned = set(network.convs)
    for node in network.ops:
        for path, kind in _stack(node):
            kinds[path] = kind
            if node in planned:
                convs[path].append(node)
    return kinds, convs


def _shapes(network: Network, convs: list[fx.Node]) -> list[tuple[int, ...]]:
    """Tells plain containers apart, whose class says nothing."""
    found = (network.parameter(conv, 1) for conv in convs)
    return [tuple(weight.shape) for _, weight in (each for each in found if each)]


def _stack(node: fx.Node) -> list[tuple[str, str]]:
    entries = (node.meta.get("nn_module_stack") or {}).values()
    return [(entry[0].split("@")[0], str(entry[1])) for entry in entries if entry[0]]


def _output_of(network: Network, path: str) -> fx.Node | None:
    """The last node of a module that something outside it reads."""
    inside = [node for node in network.ops if any(path == place for place, _ in _stack(node))]
    within = set(inside)
    read = [node for node in inside if any(user not in within for user, _ in network.edges_out(node))]
    return read[-1] if read else None
