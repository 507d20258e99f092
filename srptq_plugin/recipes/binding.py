"""A recipe held against what is installed: the target's rules, and the observers with their options."""

from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from inspect import signature
from typing import TYPE_CHECKING, Any

from srptq_plugin.errors import SrptqError, UnknownNameError, at_once
from srptq_plugin.graph.rules import Rules
from srptq_plugin.planning.plan import ObserverFactoryForGrid, QConfig, Role
from srptq_plugin.plugins.registry import Registry
from srptq_plugin.quantization.grid import IntGrid
from srptq_plugin.quantization.observer import Observer
from srptq_plugin.recipes.recipe import Recipe
from srptq_plugin.recipes.schema import TensorSettings

if TYPE_CHECKING:
    from srptq_plugin.plugins.protocols import ObserverFactory


def rules_of(recipe: Recipe, registry: Registry) -> Rules:
    """The rules of the recipe's target and preset; what the target cannot run is refused here."""
    target = registry.target(recipe.target).load()
    presets = target.presets
    preset = recipe.preset or next(iter(presets))
    if preset not in presets:
        raise SrptqError(
            f"recipe {recipe.name}: preset: {UnknownNameError(f'preset of {recipe.target}', preset, presets)}"
        )
    problems = [
        *_problems(recipe, presets[preset]),
        *_dynamic_problems(recipe, presets[preset], registry),
        *_export_problems(recipe, target.exports),
    ]
    if problems:
        raise SrptqError(at_once(f"recipe {recipe.name}: {problem}" for problem in problems))
    return presets[preset]


def _problems(recipe: Recipe, rules: Rules) -> Iterator[str]:
    if recipe.placement and recipe.placement not in rules.placements:
        yield f"placement: {recipe.target} does not run {recipe.placement!r}; choices: {', '.join(rules.placements)}"
    if recipe.weights.per_channel and not rules.per_channel:
        yield f"weights.per_channel: true, but {recipe.target} has one scale a weight with this preset; set it to false"
    for role in ("weights", "activations"):
        if rules.integer_bits and not getattr(recipe, role).quantize:
            yield f"{role}.quantize: false, but {recipe.target} needs integers; a paper-... recipe simulates it"
    yield from _skip_problems(recipe, rules)
    for path, bits, allowed in _all_bits(recipe, rules):
        if bits is not None and bits not in allowed:
            choices = ", ".join(map(str, sorted(allowed)))
            cure = f"the nearest is {nearest(bits, allowed)}{_or_float(path, bits, allowed)}"
            yield f"{path}: {recipe.target} has no {bits} bits here; choices: {choices}; {cure}"


def _or_float(path: str, bits: int, allowed: frozenset[int]) -> str:
    """Where a part wants more bits than there are, it need have none."""
    part = path.rpartition(".")[0]
    named = part.startswith(("stages.", "overrides."))
    return f", or {part}.quantize: false leaves it float" if named and bits > max(allowed) else ""


def _skip_problems(recipe: Recipe, rules: Rules) -> Iterator[str]:
    if recipe.skips.bits is not None and rules.placement(recipe.placement) == "convs":
        yield "skips.bits: placement convs leaves skips float; set placement to full, or skips.bits to null"
    if rules.integer_bits and not recipe.skips.quantize:
        yield f"skips.quantize: false, but {recipe.target} needs integers; a paper-... recipe simulates it"


def _dynamic_problems(recipe: Recipe, rules: Rules, registry: Registry) -> Iterator[str]:
    for role in ("weights", "activations"):
        name: str = getattr(recipe, role).quantizer
        with _named(f"recipe {recipe.name}: {role}.quantizer"):
            dynamic = registry.quantizer(name).load().dynamic
        if dynamic and role == "weights" and recipe.weights.rounding == "compensated":
            yield f"weights.rounding: compensated, but {name} has levels of its own; set it to nearest"
        if dynamic and not rules.activations.float_zero_point:
            yield (
                f"{role}.quantizer: {name} computes its levels from the tensor at hand, each image's anew, which "
                f"{recipe.target} does not run; set it to bounded, or simulate it with target: paper, preset: paper"
            )


def _export_problems(recipe: Recipe, exports: Mapping[str, Sequence[Any]]) -> Iterator[str]:
    for key, value in recipe.export.items():
        if key not in exports:
            yield f"export: {UnknownNameError(f'option of {recipe.target}', key, exports)}"
        elif value not in exports[key]:
            yield f"export.{key}: {value!r} is not known; choices: {', '.join(map(str, exports[key]))}"


def nearest(bits: int, allowed: Collection[int]) -> int:
    """The number of bits that is closest to one; of two the larger.

    >>> nearest(6, {4, 8}), nearest(5, {4, 8})
    (8, 4)
    """
    return min(allowed, key=lambda offered: (abs(offered - bits), -offered))


def _all_bits(recipe: Recipe, rules: Rules) -> Iterator[tuple[str, int | None, frozenset[int]]]:
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


def qconfigs_of(recipe: Recipe, registry: Registry) -> Mapping[Role, QConfig]:
    """The observers and quantizers that the recipe names, ready to be made for any grid."""
    return {
        "weight": _maker("weights", recipe.weights, registry),
        "activation": _maker("activations", recipe.activations, registry),
    }


@contextmanager
def _named(key: str) -> Generator[None]:
    """Which key has a name that is not known."""
    try:
        yield
    except UnknownNameError as error:
        raise SrptqError(f"{key}: {error}") from error


def _maker(path: str, settings: TensorSettings, registry: Registry) -> QConfig:
    with _named(f"{path}.quantizer"):
        kind, options = registry.quantizer(settings.quantizer).load(), settings.quantizer_options
    for key, given in (("quantizer", {}), ("quantizer_options", options)):
        try:
            kind("", IntGrid(settings.bits), constant=path == "weights", options=given)
        except (TypeError, SrptqError) as error:
            raise SrptqError(f"{path}.{key}: {settings.quantizer}: {error}") from error
    return QConfig(_observer_maker(path, settings, registry), kind, options)


def _observer_maker(path: str, settings: TensorSettings, registry: Registry) -> ObserverFactoryForGrid:
    with _named(f"{path}.observer"):
        factory: ObserverFactory = registry.observer(settings.observer).load()

    def make(grid: IntGrid, tensors_per_batch: int) -> Observer:
        try:
            return factory(grid, tensors_per_batch=tensors_per_batch, **settings.options)
        except (TypeError, SrptqError) as error:
            raise SrptqError(f"{path}.options: observer {settings.observer}: {error}") from error

    make(IntGrid(settings.bits), 1)
    return make


def tuner_of(recipe: Recipe, registry: Registry) -> Callable[..., Mapping[str, float]] | None:
    """The recipe's reconstruction with its options, which fit it; it takes a prepared graph, images and `progress`."""
    settings = recipe.reconstruction
    if settings is None:
        return None
    tune = registry.reconstruction(settings.name).load()
    options = {"seed": recipe.calibration.seed, **settings.options()}
    try:
        signature(tune).bind(None, None, progress=None, **options)
    except TypeError as error:
        raise SrptqError(f"reconstruction: {settings.name}: {error}") from error
    return partial(tune, **options)
