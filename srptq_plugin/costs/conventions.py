"""How papers count what a quantized network costs: FQSR's OPs and memory, DAQ's BitOPs."""

from collections.abc import Mapping, Sequence

from srptq_plugin.costs.cost import Costs, LayerCost, bits_of
from srptq_plugin.costs.memory import packed
from srptq_plugin.planning.plan import Plan
from srptq_plugin.quantization.grid import IntGrid

WORD = 64
"""One operation of FQSR's works on as many bits."""
MAPS = 3
"""One for the long skip, one for a short skip, one for the main trunk."""


def fqsr_operations(costs: Costs, plan: Plan | None = None) -> float:
    """OPs (section 4.3): M / 64 of a float product where M bits are multiplied, those of the wider factor.

    M is what a recipe says: FQSR does not count the sign.
    """
    return sum(found.layer.macs * _share(costs, found) for found in costs.of_layers(plan))


def _share(costs: Costs, found: LayerCost) -> float:
    if found.weight is None or found.activation is None:
        return 1.0
    return max(_named(costs, grid) for grid in (found.weight, found.activation)) / WORD


def fqsr_memory(costs: Costs, plan: Plan | None = None) -> int | None:
    """Bytes of three maps of the size that the body's adds give, at the bits that they read; none without adds."""
    if not costs.skips:
        return None
    sites = plan.by_edge if plan else {}
    edges = [edge for skip in costs.skips.values() for edge in skip]
    found = [sites.get(edge) for edge in edges]
    bits = max(bits_of(None) if site is None else _named(costs, site.grid) for site in found)
    return packed(MAPS * max(map(costs.elements, costs.skips)), bits)


def daq_operations(
    costs: Costs, plan: Plan | None = None, channels: Mapping[str, Sequence[int]] | None = None
) -> float:
    """BitOPs by equation 9, a multiplication and an addition being two; by equation 10 where `channels` are given.

    Those are the bits of the input channels of layers, by name.
    """
    return sum(_daq(found, (channels or {}).get(found.layer.name)) for found in costs.of_layers(plan))


def _daq(found: LayerCost, channels: Sequence[int] | None) -> float:
    if channels is None:
        return 2 * found.bops
    return 2 * found.layer.macs * bits_of(found.weight) * sum(channels) / len(channels)


def _named(costs: Costs, grid: IntGrid) -> int:
    return costs.rules.named(grid) if costs.rules else grid.bits
