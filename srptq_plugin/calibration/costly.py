"""Operations that stay float because their rounding costs the image much, and their integers save little time."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace

from torch import fx

from srptq_plugin.calibration.equalization.rounding_noise import RoundingNoise
from srptq_plugin.costs.cost import Costs
from srptq_plugin.graph.network import INPUT, MOVEMENT, OUTPUT, Network
from srptq_plugin.planning.plan import Plan, Site
from srptq_plugin.plugins.bound_recipe import BoundRecipe
from srptq_plugin.quantization.grid import Bounds, project
from srptq_plugin.recipes.schema import Override

MOST_MACS = 0.01
"""The largest share of a network's multiplications that stays float for this."""
LEVELS, SLACK = 255, 1e-3
FARTHEST = 2
"""How many operations before a tensor one kernel may compute with it."""


def leave_costly_float(
    noise: RoundingNoise, bound: BoundRecipe, share: float, input_range: tuple[float, float]
) -> tuple[BoundRecipe, float]:
    """Add an override to a recipe for each operation that stays float.

    Tensors that make more than a share of the noise are looked at, from the noisiest on. Such a tensor is not rounded
    if the target can leave it float, and if the operations around it multiply little.

    Returns:
        The recipe, and by how many dB the noise by rounding activations is expected to fall.
    """
    network, plan = noise.network, noise.plan
    noises = activation_noises(noise, input_range, equalized=bound.recipe.equalize)
    _, channels, height, width = noise.images.shape
    macs = {layer.name: layer.macs for layer in Costs.of(network, (1, channels, height, width)).layers}
    left, before = MOST_MACS * sum(macs.values()), sum(noises.values())
    total = before
    chosen = replace(bound, recipe=bound.recipe.model_copy(update={"float_above": None}))
    for group, made in sorted(noises.items(), key=lambda item: -item[1]):
        if made <= share * total:
            break
        for operations in iter_around(network, plan, group):
            multiplied = sum(macs.get(name, 0) for name in operations)
            without = leave_float(chosen, operations)
            if multiplied <= left and rounds_none(without.plan(network, input_range), plan, group):
                chosen, left, total = without, left - multiplied, total - made
                break
    return chosen, 10 * math.log10(before / total) if total else 0.0


def activation_noises(
    noise: RoundingNoise, input_range: tuple[float, float], *, equalized: bool
) -> Mapping[str, float]:
    """Return the noise in the image by each group of activations, except for an image whose levels are kept."""
    level, groups = (input_range[1] - input_range[0]) / LEVELS, noise.plan.groups
    return {
        group: made
        for group, made in noise.by_group(equalized=equalized).items()
        if groups[group][0].role == "activation" and not _keeps_levels(groups[group][0], level)
    }


def _keeps_levels(site: Site, level: float) -> bool:
    """Tell whether a site is the image, with steps that are no coarser than its levels."""
    return site.bounds is not None and float(project(Bounds.of(*site.bounds), site.grid).scale) <= level * (1 + SLACK)


def iter_around(network: Network, plan: Plan, group: str) -> Iterator[list[str]]:
    """Yield the operations that read or make a group's tensors, then with those before, which fuse with them."""
    sites = plan.groups[group]
    nodes = {network.nodes[edge.consumer]: None for site in sites for edge in site.consumers}
    nodes |= {network.nodes[site.source]: None for site in sites}
    for _ in range(1 + FARTHEST):
        yield [network.name(node) for node in nodes if network.ops[node] not in (*MOVEMENT, INPUT, OUTPUT)]
        nodes |= {before: None for site in sites for before in _before(network, network.nodes[site.source], nodes)}


def _before(network: Network, node: fx.Node, known: Mapping[fx.Node, None]) -> Iterator[fx.Node]:
    """Yield the nearest operations before a node that are not known yet."""
    for _, source in network.edges_in(node):
        if source in known:
            yield from _before(network, source, known)
        else:
            yield source


def leave_float(bound: BoundRecipe, operations: list[str]) -> BoundRecipe:
    """Return the recipe with an override for each operation, which leaves it float."""
    own = bound.recipe.overrides
    new = [override for name in operations if (override := Override(sites=name, quantize=False)) not in own]
    return replace(bound, recipe=bound.recipe.model_copy(update={"overrides": (*own, *new)}))


def rounds_none(after: Plan, before: Plan, group: str) -> bool:
    """Tell whether a plan rounds no tensor of a group of the plan before."""
    return {site.source for site in before.groups[group]}.isdisjoint(site.source for site in after.sites)
