"""What a recipe asks for and its target cannot run, each problem with its cure."""

from collections.abc import Collection, Iterator, Mapping

from srptq_plugin.graph.rules import Rules
from srptq_plugin.recipes.recipe import Recipe


def problems(recipe: Recipe, rules: Rules) -> Iterator[str]:
    """Yield what a recipe asks for and the rules of its target do not allow."""
    target = recipe.target
    if recipe.placement and recipe.placement not in rules.placements:
        yield f"placement: {target} does not run {recipe.placement!r}; choices: {', '.join(rules.placements)}"
    if recipe.weights.per_channel and not rules.per_channel:
        yield f"weights.per_channel: true, but {target} has one scale a weight with this preset; set it to false"
    for role in ("weights", "activations"):
        if rules.integer_bits and not getattr(recipe, role).quantize:
            yield f"{role}.quantize: false, but {target} needs integers; a paper-... recipe simulates it"
    if recipe.float_above is not None and rules.every_tensor:
        yield f"float_above: {target} needs an encoding for every tensor; set it to null"
    yield from _skip_problems(recipe, rules)
    yield from _bit_problems(recipe, rules)


def _skip_problems(recipe: Recipe, rules: Rules) -> Iterator[str]:
    if recipe.skips.bits is not None and rules.placement(recipe.placement) == "convs":
        yield "skips.bits: placement convs leaves skips float; set placement to full, or skips.bits to null"
    if rules.integer_bits and not recipe.skips.quantize:
        yield f"skips.quantize: false, but {recipe.target} needs integers; a paper-... recipe simulates it"


def _bit_problems(recipe: Recipe, rules: Rules) -> Iterator[str]:
    for key, bits, allowed in _bits_by_key(recipe, rules):
        if bits is not None and bits not in allowed:
            choices = ", ".join(map(str, sorted(allowed)))
            cure = f"the nearest is {nearest(bits, allowed)}{_or_float(key, bits, allowed)}"
            yield f"{key}: {recipe.target} has no {bits} bits here; choices: {choices}; {cure}"


def _bits_by_key(recipe: Recipe, rules: Rules) -> Iterator[tuple[str, int | None, frozenset[int]]]:
    yield "weights.bits", recipe.weights.bits, rules.weight_bits
    yield "activations.bits", recipe.activations.bits, rules.activation_bits
    for stage, settings in recipe.stages.items():
        yield f"stages.{stage}.weights", settings.weights, rules.weight_bits
        yield f"stages.{stage}.activations", settings.activations, rules.activation_bits
    yield "skips.bits", recipe.skips.bits, rules.activation_bits
    for n, override in enumerate(recipe.overrides):
        yield f"overrides.{n}.bits", override.bits, rules.weight_bits & rules.activation_bits
        yield f"overrides.{n}.weights", override.weights, rules.weight_bits
        yield f"overrides.{n}.activations", override.activations, rules.activation_bits


def _or_float(key: str, bits: int, allowed: frozenset[int]) -> str:
    """Offer to leave a part float if it wants more bits than the target has."""
    part = key.rpartition(".")[0]
    can_be_float = part.startswith(("stages.", "overrides."))
    return f", or {part}.quantize: false leaves it float" if can_be_float and bits > max(allowed) else ""


def nearest(bits: int, allowed: Collection[int]) -> int:
    """Return the allowed number of bits that is closest. Of two that are as close it is the larger.

    >>> nearest(6, {4, 8}), nearest(5, {4, 8})
    (8, 4)
    """
    return min(allowed, key=lambda choice: (abs(choice - bits), -choice))


def dynamic_problems(recipe: Recipe, rules: Rules, dynamic: Mapping[str, bool]) -> Iterator[str]:
    """Yield problems of quantizers that compute their levels from each image.

    Args:
        dynamic: whether the quantizer of `weights` and of `activations` does.
    """
    for section in (section for section, is_dynamic in dynamic.items() if is_dynamic):
        name: str = getattr(recipe, section).quantizer
        if section == "weights" and recipe.weights.rounding == "compensated":
            yield f"weights.rounding: compensated, but {name} has levels of its own; set it to nearest"
        if not rules.activations.float_zero_point:
            yield (
                f"{section}.quantizer: {name} computes its levels from each image, which {recipe.target} does not run; "
                "set it to bounded, or simulate it with target: paper, preset: paper"
            )
