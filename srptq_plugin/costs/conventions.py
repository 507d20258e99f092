"""Cost conventions of papers: OPs and memory as FQSR counts them, BitOPs as DAQ counts them."""

from collections.abc import Mapping, Sequence

from srptq_plugin.costs.cost import Costs, LayerCost, bits_of
from srptq_plugin.costs.memory import packed_bytes
from srptq_plugin.planning.plan import Plan
from srptq_plugin.quantization.grid import IntGrid

WORD = 64
"""Bits that one OP of FQSR works on."""
MAPS = 3
"""Feature maps that FQSR counts: the long skip, a short skip, and the main trunk."""


def fqsr_operations(costs: Costs, plan: Plan | None = None) -> float:
    """Count OPs as FQSR does (section 4.3): a product of M bits is M / 64 of a float product.

    M is the wider of both factors, in bits as a recipe states them. FQSR does not count the sign.
    """
    return sum(layer_cost.layer.macs * _share(costs, layer_cost) for layer_cost in costs.layer_costs(plan))


def fqsr_memory(costs: Costs, plan: Plan | None = None, maps: int = MAPS) -> int | None:
    """Return the bytes of feature maps as large as the largest sum of the body, or None without adds.

    The widest input of the body's adds determines their bits.

    Args:
        costs: the network's costs.
        plan: the bits of the adds' inputs. None counts the float network.
        maps: the number of maps in memory. BAM keeps the outputs of all 33 convolutions of SRResNet's body.
    """
    if not costs.skips:
        return None
    sites = plan.by_edge if plan else {}
    edges = [edge for skip in costs.skips.values() for edge in skip]
    inputs = [sites.get(edge) for edge in edges]
    bits = max(bits_of(None) if site is None else _named(costs, site.grid) for site in inputs)
    return packed_bytes(maps * max(map(costs.elements, costs.skips)), bits)


def daq_operations(
    costs: Costs, plan: Plan | None = None, channels: Mapping[str, Sequence[float]] | None = None
) -> float:
    """Count BitOPs as DAQ does (equation 9), where a multiplication and an addition are two operations.

    Args:
        costs: the network's costs.
        plan: the bits of weights and activations. None counts the float network.
        channels: the bits of each input channel, by the layer's name. These layers count by equation 10.
    """
    return sum(_daq(layer_cost, (channels or {}).get(layer_cost.layer.name)) for layer_cost in costs.layer_costs(plan))


def _share(costs: Costs, layer_cost: LayerCost) -> float:
    if layer_cost.weight is None or layer_cost.activation is None:
        return 1.0
    return max(_named(costs, grid) for grid in (layer_cost.weight, layer_cost.activation)) / WORD


def _daq(layer_cost: LayerCost, channels: Sequence[float] | None) -> float:
    if channels is None:
        return 2 * layer_cost.bops
    return 2 * layer_cost.layer.macs * bits_of(layer_cost.weight) * sum(channels) / len(channels)


def _named(costs: Costs, grid: IntGrid) -> int:
    return costs.rules.named(grid) if costs.rules else grid.bits
