"""The parts of a network that can be quantized alone: stages and all their combinations, blocks, sites."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

from torch import fx

from srptq_plugin.analysis import KINDS, Kind
from srptq_plugin.graph.network import Network
from srptq_plugin.graph.stages import STAGES, block_paths
from srptq_plugin.planning.plan import Plan, Site


@dataclass(frozen=True)
class Part:
    """Groups of sites that are switched together."""

    kind: Kind
    name: str
    groups: frozenset[str]


def parts_of(plan: Plan, network: fx.GraphModule, kinds: Sequence[Kind] = KINDS) -> list[Part]:
    """The parts of these kinds, in the order of the network."""
    read = Network(network)
    found = {"stage": _stages(plan), "block": _blocks(plan, read), "site": _sites(plan, read)}
    return [part for kind in KINDS if kind in kinds for part in found[kind]]


def _stages(plan: Plan) -> Iterator[Part]:
    """Each stage, and every combination of them."""
    groups: dict[str, set[str]] = defaultdict(set)
    for group, sites in plan.groups.items():
        groups[sites[0].stage].add(group)
    used = [stage for stage in STAGES if stage in groups]
    for count in range(1, len(used) + 1):
        for chosen in combinations(used, count):
            yield Part("stage", " + ".join(chosen), frozenset[str]().union(*(groups[stage] for stage in chosen)))


def _blocks(plan: Plan, network: Network) -> Iterator[Part]:
    paths = block_paths(network)
    groups: dict[str, set[str]] = defaultdict(set)
    for group, sites in plan.groups.items():
        path = next((path for path in paths if _within(sites[0], path)), "")
        groups[path].add(group)
    yield from (Part("block", path, frozenset(groups[path])) for path in paths if path in groups)


def _within(site: Site, path: str) -> bool:
    """Whether a block reads a tensor."""
    return site.consumers[0].consumer.startswith((f"{path}.", f"{path}/"))


def _sites(plan: Plan, network: Network) -> Iterator[Part]:
    """By who reads them first: a layer's input, then its weight."""
    order = {key: number for number, key in enumerate(network.nodes)}
    read: dict[str, tuple[int, int]] = {}
    for group, sites in plan.groups.items():
        read[group] = min((order[edge.consumer], edge.input_index) for site in sites for edge in site.consumers)
    yield from (Part("site", group, frozenset({group})) for group in sorted(read, key=lambda each: read[each]))
