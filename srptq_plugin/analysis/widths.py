"""The noise that each tensor makes in the image, alone, at every number of bits that the target has."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from glob import escape
from typing import Any

from srptq_plugin.analysis.analyze import noises
from srptq_plugin.analysis.subject import Subject
from srptq_plugin.calibration.inputs import Inputs
from srptq_plugin.deploy.quant_table import QuantTable
from srptq_plugin.errors import SrptqError
from srptq_plugin.graph.rules import Rules
from srptq_plugin.graph.stages import STAGES
from srptq_plugin.planning.plan import Plan, Site
from srptq_plugin.plugins.compatibility import nearest
from srptq_plugin.recipes.recipe import Recipe
from srptq_plugin.utils.progress import Progress, quiet

USUAL = (4, 8, 16)
EIGHT = 8


@dataclass(frozen=True)
class Uniform:
    """A network with one number of bits everywhere, and the noise of each group of sites alone."""

    bits: int
    subject: Subject
    noise: Mapping[str, float]

    def bits_of(self, group: str) -> int:
        """The bits of a group, which the target may not have as asked."""
        return self.subject.table.plan.groups[group][0].grid.bits


def at_every_width(
    inputs: Inputs, patches: int, widths: Sequence[int] = USUAL, progress: Progress = quiet
) -> list[Uniform]:
    """Calibrate and measure at each; what weights or activations lack there is the nearest.

    Channels are not equalized: that would give each its own float network.
    """
    known = inputs.bound.rules.weight_bits | inputs.bound.rules.activation_bits
    chosen = sorted(known.intersection(widths))
    if len(chosen) < 2:  # noqa: PLR2004 - one is no choice
        has, asked = (", ".join(map(str, sorted(each))) for each in (known, widths))
        raise SrptqError(f"bits {asked}: {inputs.recipe.target} has {has}; give two of these at least")
    kind = inputs.recipe.activations.quantizer
    if inputs.bound.registry.quantizer(kind).load().dynamic:
        raise SrptqError(f"activations.quantizer: {kind} has no bounds to choose bits for; set it to bounded")
    return [_uniform(inputs, bits, patches, progress) for bits in chosen]


def _uniform(inputs: Inputs, bits: int, patches: int, progress: Progress) -> Uniform:
    recipe = uniform(inputs.recipe, inputs.bound.rules, bits).model_copy(update={"equalize": False})
    subject = Subject.of_model(replace(inputs, bound=inputs.bound.with_recipe(recipe)), patches, progress)
    return Uniform(bits, subject, noises(subject, progress))


def mixed(uniforms: Sequence[Uniform], bits: Mapping[str, int]) -> QuantTable:
    """The table of groups at bits of their own: observing looks at the float network, whatever the others have."""
    tables = {(group, each.bits_of(group)): each.subject.table for each in uniforms for group in bits}
    plan = uniforms[0].subject.table.plan
    own = {site.name: tables[site.group, bits[site.group]] for site in plan.sites}
    qparams = {name: table.qparams[name] for name, table in own.items()}
    sites = tuple(replace(site, grid=qparams[site.name].grid) for site in plan.sites)
    weights = {site.name: own[site.name].weights[site.name] for site in plan.weights}
    return replace(uniforms[0].subject.table, plan=replace(plan, sites=sites), qparams=qparams, weights=weights)


def uniform(recipe: Recipe, rules: Rules, bits: int) -> Recipe:
    """The recipe with this number of bits everywhere, or the nearest that the target has."""
    changed: dict[str, Any] = recipe.model_dump()
    for role, allowed in (("weights", rules.weight_bits), ("activations", rules.activation_bits)):
        changed[role]["bits"] = nearest(bits, allowed)
        for stage in STAGES:
            changed["stages"][stage][role] = None
    changed["skips"]["bits"] = None
    kept = (each for each in changed["overrides"] if each["quantize"] is not None)
    changed["overrides"] = [{**each, "bits": None, "weights": None, "activations": None} for each in kept]
    return Recipe.model_validate(changed)


def recipe_of(inputs: Inputs, plan: Plan, bits: Mapping[str, int]) -> Recipe:
    """The recipe with bits by group: the most frequent everywhere, and a line for each tensor that has others."""
    changed: dict[str, Any] = uniform(inputs.recipe, inputs.bound.rules, EIGHT).model_dump()
    overrides = list(changed["overrides"])
    for role, key in (("weight", "weights"), ("activation", "activations")):
        sites = (site for site in plan.sites if site.role == role)
        wanted = {site.source: _said(bits[site.group], site, inputs.bound.rules) for site in sites}
        usual = Counter(wanted.values()).most_common(1)
        changed[key]["bits"] = usual[0][0] if usual else EIGHT
        own = {tensor: found for tensor, found in wanted.items() if found != changed[key]["bits"]}
        overrides += [{"tensors": escape(tensor), key: found} for tensor, found in own.items()]
    return Recipe.model_validate(changed | {"name": f"{inputs.recipe.name}-mixed", "overrides": overrides})


def _said(bits: int, site: Site, rules: Rules) -> int:
    """The bits that a recipe has to say for a site to have so many; a preset may allow a first layer fewer."""
    named = rules.named(site.grid.at(bits))
    allowed = rules.weight_bits if site.role == "weight" else rules.activation_bits
    return min((each for each in allowed if each >= named), default=named)
