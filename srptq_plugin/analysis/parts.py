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


def list_parts(plan: Plan, network: fx.GraphModule, kinds: Sequence[Kind] = KINDS) -> list[Part]:
    """List the parts of these kinds, in the order of the network."""
    parsed = Network(network)
    parts = {"stage": _stages(plan), "block": _blocks(plan, parsed), "site": _sites(plan, parsed)}
    return [part for kind in KINDS if kind in kinds for part in parts[kind]]


def _stages(plan: Plan) -> Iterator[Part]:
    """Yield each stage, then all combinations of two, and so on."""
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
        path = next((path for path in paths if _is_read_in(path, sites[0])), "")
        groups[path].add(group)
    yield from (Part("block", path, frozenset(groups[path])) for path in paths if path in groups)


def _is_read_in(path: str, site: Site) -> bool:
    return site.consumers[0].consumer.startswith((f"{path}.", f"{path}/"))


def _sites(plan: Plan, network: Network) -> Iterator[Part]:
    """Yield the groups in the order of their first readers. A layer's input (index 0) precedes its weight (index 1)."""
    order = {key: number for number, key in enumerate(network.nodes)}
    first_read: dict[str, tuple[int, int]] = {}
    for group, sites in plan.groups.items():
        first_read[group] = min((order[edge.consumer], edge.input_index) for site in sites for edge in site.consumers)
    yield from (
        Part("site", group, frozenset({group})) for group in sorted(first_read, key=lambda name: first_read[name])
    )
