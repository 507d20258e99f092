"""A plan as JSON, and back: what is none is refused by the place where it is not."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError

from srptq_plugin.errors import short
from srptq_plugin.graph.network import Network, tensor_arguments
from srptq_plugin.planning.plan import Plan, Site
from srptq_plugin.quantization.grid import IntGrid

MOST_BITS = 32


@dataclass(frozen=True)
class _Record:
    """All of a plan but what makes its quantizers."""

    sites: tuple[Site, ...]
    blocks: tuple[str, ...]
    convs: tuple[str, ...]
    floats: dict[str, str]
    integer_bias: bool


_ADAPTER = TypeAdapter(_Record)


def record_of(plan: Plan) -> dict[str, Any]:
    """What JSON can hold of a plan."""
    return {
        "sites": [asdict(site) for site in plan.sites],
        "blocks": plan.blocks,
        "convs": plan.convs,
        "floats": dict(plan.floats),
        "integer_bias": plan.integer_bias,
    }


def plan_of(record: object) -> Plan:
    """The plan that a record stands for; ValueError says what is wrong with one that stands for none.

    >>> plan_of({"sites": [], "blocks": [], "convs": [3], "floats": {}, "integer_bias": False})
    Traceback (most recent call last):
    ValueError: plan.convs.0: Input should be a valid string
    """
    try:
        found = _ADAPTER.validate_json(json.dumps(record), strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise ValueError(f"{short('.'.join(map(str, ('plan', *first['loc']))))}: {first['msg']}") from error
    for site in found.sites:
        _check(site)
    return Plan(found.sites, found.blocks, found.convs, found.floats, found.integer_bias)


def _check(site: Site) -> None:
    grid = site.grid
    if not 1 <= grid.bits <= MOST_BITS or grid.channel_axis not in (None, 0, 1) or not site.consumers:
        raise ValueError(f"site {short(site.name)}: {_said(grid)}, read by {len(site.consumers)}")


def _said(grid: IntGrid) -> str:
    return f"{grid.bits} bits along axis {grid.channel_axis}"


def missing_from(network: Network, plan: Plan) -> str:
    """What a plan names and a network has not, in words; nothing where all is there."""
    named = [*plan.convs, *plan.blocks, *(edge.consumer for site in plan.sites for edge in site.consumers)]
    absent = [name for name in named if name not in network.nodes]
    if absent:
        return f"no operation {short(absent[0])}"
    places = ((edge, tensor_arguments(network.nodes[edge.consumer])) for s in plan.sites for edge in s.consumers)
    beyond = [edge for edge, read in places if not 0 <= edge.input_index < len(read)]
    if beyond:
        return f"{beyond[0].consumer} reads nothing at index {beyond[0].input_index}"
    unread = set(plan.convs) - {edge.consumer for site in plan.sites for edge in site.consumers}
    return f"no site at {min(unread)}" if unread else ""


def shapes_of(network: Network, plan: Plan) -> Mapping[str, tuple[int, ...]]:
    """Those of the weights, by site."""
    read = ((site.name, site.consumers[0]) for site in plan.weights)
    found = {name: network.parameter(network.nodes[edge.consumer], edge.input_index) for name, edge in read}
    return {name: tuple(weight[1].shape) for name, weight in found.items() if weight}
