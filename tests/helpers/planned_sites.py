"""Plans of toy networks, as sites by name."""

from collections.abc import Mapping
from typing import Any

from helpers import networks
from srptq_plugin.graph.rules import Rules
from srptq_plugin.planning.plan import Plan, Site
from srptq_plugin.quantization.grid import IntGrid

KINDS = [*networks.NETWORKS, "rdn", "rrdb"]
WEIGHT = IntGrid(8, signed=True, symmetric=True, narrow_range=True, channel_axis=0)
RULES = Rules(WEIGHT, IntGrid(8), frozenset(range(2, 9)), frozenset(range(2, 9)))


def sites(plan: Plan) -> dict[str, Site]:
    return {site.name: site for site in plan.sites}


def planned(kind: str, bits: int = 8, target: str = "openvino", **keys: Any) -> dict[str, Site]:
    return sites(networks.plan(kind, networks.recipe(bits, target, **keys)))


def overridden(kind: str, *overrides: Mapping[str, Any], bits: int = 4, **keys: Any) -> dict[str, Site]:
    return planned(kind, bits, "onnxruntime", overrides=overrides, **keys)
