"""The noise that each tensor makes in the image alone, at every number of bits that the target has."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from glob import escape
from typing import Any

from srptq_plugin.analysis.analyze import measure_noise
from srptq_plugin.analysis.kept_rows import KeptRows
from srptq_plugin.analysis.subject import Subject
from srptq_plugin.calibration.inputs import Inputs
from srptq_plugin.deploy.quant_table import QuantTable
from srptq_plugin.errors import ArgumentError, SrptqError
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
    """A network with the same bits everywhere, and the noise that each group of sites makes alone."""

    bits: int
    subject: Subject
    noise: Mapping[str, float]

    def bits_of(self, group: str) -> int:
        """Return the bits of a group, which differ from `bits` where the target does not have these."""
        return self.subject.table.plan.groups[group][0].grid.bits


def at_every_width(
    inputs: Inputs,
    patches: int,
    widths: Sequence[int] = USUAL,
    progress: Progress = quiet,
    rows: KeptRows | None = None,
) -> list[Uniform]:
    """Calibrate and measure a network at each number of bits that the target has for weights or activations.

    A tensor that lacks these bits gets the nearest that it has. Channels are not equalized, as equalizing would give
    each width another float network. Measurements that are in `rows` are not repeated.
    """
    known = inputs.bound.rules.weight_bits | inputs.bound.rules.activation_bits
    chosen = sorted(known.intersection(widths))
    if len(chosen) < 2:  # noqa: PLR2004 - a single width leaves no choice
        available, requested = (", ".join(map(str, sorted(bits))) for bits in (known, widths))
        raise ArgumentError("widths", f"{inputs.recipe.target} has {available}; give two of these at least", requested)
    kind = inputs.recipe.activations.quantizer
    if inputs.bound.registry.quantizer(kind).load().dynamic:
        raise SrptqError(f"activations.quantizer: {kind} has no bounds to choose bits for; set it to bounded")
    return [_measure(inputs, bits, patches, progress, rows) for bits in chosen]


def mixed(uniforms: Sequence[Uniform], bits: Mapping[str, int]) -> QuantTable:
    """Mix the tables of several widths into one with bits by group.

    The parts fit together because observers see the float network, whatever bits the other groups have.
    """
    tables = {(group, uniform.bits_of(group)): uniform.subject.table for uniform in uniforms for group in bits}
    plan = uniforms[0].subject.table.plan
    sources = {site.name: tables[site.group, bits[site.group]] for site in plan.sites}
    qparams = {name: table.qparams[name] for name, table in sources.items()}
    sites = tuple(replace(site, grid=qparams[site.name].grid) for site in plan.sites)
    weights = {site.name: sources[site.name].weights[site.name] for site in plan.weights}
    return replace(uniforms[0].subject.table, plan=replace(plan, sites=sites), qparams=qparams, weights=weights)


def uniform_recipe(recipe: Recipe, rules: Rules, bits: int) -> Recipe:
    """Return the recipe with these bits everywhere, or with the nearest that the target has."""
    changed: dict[str, Any] = recipe.model_dump()
    for role, allowed in (("weights", rules.weight_bits), ("activations", rules.activation_bits)):
        changed[role]["bits"] = nearest(bits, allowed)
        for stage in STAGES:
            changed["stages"][stage][role] = None
    changed["skips"]["bits"] = None
    others = (override for override in changed["overrides"] if override["quantize"] is not None)
    changed["overrides"] = [{**override, "bits": None, "weights": None, "activations": None} for override in others]
    return Recipe.model_validate(changed)


def mixed_recipe(inputs: Inputs, plan: Plan, bits: Mapping[str, int]) -> Recipe:
    """Return the recipe with bits by group: the most frequent everywhere, and an override for each other tensor."""
    changed: dict[str, Any] = uniform_recipe(inputs.recipe, inputs.bound.rules, EIGHT).model_dump()
    overrides = list(changed["overrides"])
    for role, key in (("weight", "weights"), ("activation", "activations")):
        sites = (site for site in plan.sites if site.role == role)
        bits_by_tensor = {site.source: _bits_in_recipe(bits[site.group], site, inputs.bound.rules) for site in sites}
        usual = Counter(bits_by_tensor.values()).most_common(1)
        changed[key]["bits"] = usual[0][0] if usual else EIGHT
        # names of tensors are patterns in a recipe, so their brackets and asterisks are escaped
        overrides += [
            {"tensors": escape(tensor), key: width}
            for tensor, width in bits_by_tensor.items()
            if width != changed[key]["bits"]
        ]
    return Recipe.model_validate(changed | {"name": f"{inputs.recipe.name}-mixed", "overrides": overrides})


def _measure(inputs: Inputs, bits: int, patches: int, progress: Progress, rows: KeptRows | None) -> Uniform:
    recipe = uniform_recipe(inputs.recipe, inputs.bound.rules, bits).model_copy(update={"equalize": False})
    subject = Subject.of_model(replace(inputs, bound=inputs.bound.with_recipe(recipe)), patches, progress)
    return Uniform(bits, subject, measure_noise(subject, progress, rows))


def _bits_in_recipe(bits: int, site: Site, rules: Rules) -> int:
    """Return the bits that a recipe has to name so that a site gets these. A preset may allow a first layer fewer."""
    named = rules.named(site.grid.at(bits))
    allowed = rules.weight_bits if site.role == "weight" else rules.activation_bits
    return min((width for width in allowed if width >= named), default=named)
