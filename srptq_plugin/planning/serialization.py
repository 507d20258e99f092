"""A plan as JSON, and back. Reading refuses what no plan says, and names the place in the file."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError

from srptq_plugin.errors import short
from srptq_plugin.graph.limits import Limits
from srptq_plugin.graph.network import Network, OpKey, tensor_arguments
from srptq_plugin.graph.stages import Stage
from srptq_plugin.planning.plan import Edge, Plan, Role, Site
from srptq_plugin.quantization.grid import IntGrid

MOST_BITS = 32


@dataclass(frozen=True)
class _SiteRecord:
    """A site as a file holds it: its producer is the text of an operation key, a weight's its own name."""

    name: str
    role: Role
    stage: Stage
    grid: IntGrid
    source: str
    consumers: tuple[Edge, ...]
    group: str = ""
    bounds: tuple[float, float] | None = None
    repeats: bool = False
    limits: Limits | None = None


@dataclass(frozen=True)
class _PlanRecord:
    """A plan as a file holds it: without the observers and quantizers of its roles."""

    sites: tuple[_SiteRecord, ...]
    blocks: tuple[str, ...]
    convs: tuple[str, ...]
    floats: dict[str, str]
    integer_bias: bool


_ADAPTER = TypeAdapter(_PlanRecord)


def record_of(plan: Plan) -> dict[str, Any]:
    """Return a plan as values that JSON holds. Observers and quantizers are left out."""
    return {
        "sites": [asdict(_site_record(site)) for site in plan.sites],
        "blocks": plan.blocks,
        "convs": plan.convs,
        "floats": dict(plan.floats),
        "integer_bias": plan.integer_bias,
    }


def plan_of(record: object) -> Plan:
    """Return the plan of a record. ValueError says where a record is wrong.

    >>> plan_of({"sites": [], "blocks": [], "convs": [3], "floats": {}, "integer_bias": False})
    Traceback (most recent call last):
    ValueError: plan.convs.0: Input should be a valid string
    """
    try:
        parsed = _ADAPTER.validate_json(json.dumps(record), strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise ValueError(f"{short('.'.join(map(str, ('plan', *first['loc']))))}: {first['msg']}") from error
    return Plan(tuple(map(_site, parsed.sites)), parsed.blocks, parsed.convs, parsed.floats, parsed.integer_bias)


def missing_from(network: Network, plan: Plan) -> str:
    """Return what a plan names and a network lacks, in words, or an empty text if nothing is missing."""
    named = [*plan.convs, *plan.blocks, *(edge.consumer for site in plan.sites for edge in site.consumers)]
    absent = [name for name in named if name not in network.nodes]
    if absent:
        return f"no operation {short(absent[0])}"
    reads = ((edge, tensor_arguments(network.nodes[edge.consumer])) for s in plan.sites for edge in s.consumers)
    beyond = [edge for edge, arguments in reads if not 0 <= edge.input_index < len(arguments)]
    if beyond:
        return f"{beyond[0].consumer} reads nothing at index {beyond[0].input_index}"
    unread = set(plan.convs) - {edge.consumer for site in plan.sites for edge in site.consumers}
    return f"no site at {min(unread)}" if unread else ""


def shapes_of(network: Network, plan: Plan) -> Mapping[str, tuple[int, ...]]:
    """Return the shapes of the weights, by site."""
    readers = ((site.name, site.consumers[0]) for site in plan.weights)
    weights = {name: network.parameter(network.nodes[edge.consumer], edge.input_index) for name, edge in readers}
    return {name: tuple(weight[1].shape) for name, weight in weights.items() if weight}


def _site_record(site: Site) -> _SiteRecord:
    known = site.consumers, site.group, site.bounds, site.repeats, site.limits
    return _SiteRecord(site.name, site.role, site.stage, site.grid, site.source, *known)


def _site(record: _SiteRecord) -> Site:
    grid = record.grid
    if not 1 <= grid.bits <= MOST_BITS or grid.channel_axis not in (None, 0, 1) or not record.consumers:
        bits = f"{grid.bits} bits along axis {grid.channel_axis}"
        raise ValueError(f"site {short(record.name)}: {bits}, read by {len(record.consumers)}")
    known = record.consumers, record.group, record.bounds, record.repeats, record.limits
    return Site(record.name, record.role, record.stage, grid, _producer(record), *known)


def _producer(record: _SiteRecord) -> OpKey | None:
    path, _, operation = record.source.rpartition("/")
    op, _, ordinal = operation.partition(".")
    is_number = ordinal.isascii() and ordinal.isdigit()
    producer = None if record.role == "weight" else OpKey(path, op, int(ordinal) if is_number else 0)
    # Only the exact text of a key comes back: a reader looks the tensor up by it.
    if record.source != (record.name if producer is None else str(producer)):
        kind = "the name of its parameter" if producer is None else "an operation key such as body.0/add.1"
        raise ValueError(f"site {short(record.name)}: source {short(record.source)}; give {kind}")
    return producer
