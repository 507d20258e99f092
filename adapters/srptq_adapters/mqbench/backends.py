"""The backend of each target and the target of each backend, and a recipe as the config of a plain MQBench script."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from mqbench.prepare_by_platform import BackendType, ParamsTable  # pyright: ignore[reportMissingImports]

from srptq_adapters.mqbench.config import FORCED
from srptq_adapters.mqbench.grids import to_scheme
from srptq_adapters.mqbench.pattern import Config
from srptq_plugin.errors import SrptqError, UnknownNameError
from srptq_plugin.graph.rules import Rules
from srptq_plugin.plugins.bound_recipe import BoundRecipe
from srptq_plugin.plugins.registry import Registry
from srptq_plugin.quantization.grid import IntGrid
from srptq_plugin.recipes.recipe import Recipe
from srptq_plugin.recipes.schema import SkipSettings, StageSettings

TARGETS = {"Tensorrt": "tensorrt", "SNPE": "snpe", "OPENVINO": "openvino", "QDQ": "onnxruntime", "Academic": "paper"}
"""The targets by the name of MQBench's backend."""


def find_target(backend: Any) -> str:
    """Return the target that an MQBench backend deploys to.

    >>> find_target(BackendType.SNPE)
    'snpe'
    """
    if backend.name not in TARGETS:
        raise SrptqError(f"{UnknownNameError('backend', backend.name, TARGETS)}; the others have no target of ours")
    return TARGETS[backend.name]


def find_backend(target: str) -> Any:
    """Return the MQBench backend that deploys to a target.

    >>> find_backend("onnxruntime").name
    'QDQ'
    """
    backends = {name: backend for backend, name in TARGETS.items()}
    if target not in backends:
        unknown = UnknownNameError("target of MQBench", target, backends)
        raise SrptqError(f"{unknown}; for the other targets prepare with `toolkit: mqbench` in the recipe")
    return BackendType[backends[target]]


@dataclass(frozen=True)
class MQBenchConfig:
    """The arguments of `prepare_by_platform` and `ptq_reconstruction` that follow a recipe."""

    backend: Any
    prepare_custom_config_dict: Mapping[str, Any]
    reconstruction: Config | None
    differences: tuple[str, ...] = field(default=())
    """Where MQBench will not do what the recipe's target does."""


def config_from(recipe: Recipe, registry: Registry | None = None) -> MQBenchConfig:
    """Return a recipe as the config of a plain MQBench script.

    >>> config_from(Recipe.load("snpe-w8a8")).backend.name
    'SNPE'
    """
    registry = registry or Registry()
    bound = BoundRecipe.of(recipe, registry)
    recipe, rules = bound.recipe, bound.rules
    backend = find_backend(registry.target(recipe.target).name)
    grids = {"w": _weight_grid(recipe, rules), "a": rules.sized(rules.activations, recipe.activations.bits)}
    sides = {"w": recipe.weights, "a": recipe.activations}
    qconfig: dict[str, Any] = {}
    for side, settings in sides.items():
        qconfig[f"{side}_observer"] = _observer_name(settings.observer, registry)
        qconfig[f"{side}_fakequantize"] = _quantizer_name(settings.quantizer, registry)
        qconfig[f"{side}_qscheme"] = dict(to_scheme(grids[side]))
        if settings.options:
            qconfig[f"{side}_observer_extra_args"] = dict(settings.options)
        if settings.quantizer_options:
            qconfig[f"{side}_fakeq_params"] = dict(settings.quantizer_options)
    differing = tuple(differences(recipe, rules, backend))
    return MQBenchConfig(backend, {"extra_qconfig_dict": qconfig}, _reconstruction(recipe), differing)


def differences(recipe: Recipe, rules: Rules, backend: Any) -> Iterator[str]:
    """Yield a sentence for each place where an MQBench backend deviates from the recipe and its target."""
    row = ParamsTable[backend]
    for key, grid in (("w_qscheme", _weight_grid(recipe, rules)), ("a_qscheme", rules.activations)):
        default = row.get(key)
        scheme = to_scheme(grid)
        if default is not None:
            changed = [name for name in ("symmetry", "per_channel") if getattr(default, name) != scheme[name]]
            if changed:
                values = ", ".join(f"{name} {getattr(default, name)} (here {scheme[name]})" for name in changed)
                yield f"{key}: MQBench's {backend.name} has {values}; the config gives the target's"
        if grid.float_zero_point:
            yield f"{key}: {recipe.target} has levels anywhere; MQBench rounds zero to one of them"
        if grid.signed != grid.symmetric:
            yield f"{key}: {recipe.target} counts {grid.qmin}..{grid.qmax}; MQBench stores the same numbers from 0"
    yield from _placement_differences(recipe, rules, backend)
    yield from _missing_features(recipe, rules, backend)


def _placement_differences(recipe: Recipe, rules: Rules, backend: Any) -> Iterator[str]:
    placement = rules.placement(recipe.placement)
    if backend.name == "Academic" and placement == "full":
        yield "placement full: MQBench's Academic quantizes the inputs of convolutions only"
    if backend.name != "Academic":
        yield f"placement {placement}: MQBench's {backend.name} quantizes by its own rules, one quantizer a tensor"
    own = [stage for stage, settings in recipe.stages.items() if _has_own_bits(settings, recipe)]
    if own:
        academic = backend.name == "Academic"
        stages = "looks only at the layers next to the input and the output" if academic else "has none"
        yield f"stages {', '.join(own)}: bits of their own; MQBench's {backend.name} {stages}"


def _missing_features(recipe: Recipe, rules: Rules, backend: Any) -> Iterator[str]:
    if recipe.skips != SkipSettings():
        yield "skips: MQBench has no bits of their own for them"
    if recipe.overrides:
        yield "overrides: MQBench has none"
    if recipe.equalize:
        yield "equalize: MQBench has none; give it `srptq_plugin.equalize(network, recipe, images)`"
    if rules.pair_sum_bits and recipe.weights.overflow_safe and backend.name != FORCED:
        yield "weights.overflow_safe: MQBench has none; `srptq lint` tells which channels of its file overflow"
    if backend.name == FORCED:
        yield "w_qscheme: MQBench's OPENVINO always takes -64..63 for weights"


def _weight_grid(recipe: Recipe, rules: Rules) -> IntGrid:
    axis = 0 if recipe.weights.per_channel else None
    return replace(rules.sized(rules.weights, recipe.weights.bits), channel_axis=axis)


def _observer_name(name: str, registry: Registry) -> str:
    canonical = registry.observer(name).name
    return canonical if canonical == "dbdc" else f"srptq.{canonical}"


def _quantizer_name(name: str, registry: Registry) -> str:
    canonical = registry.quantizer(name).name
    return "BoundedFakeQuantize" if canonical == "bounded" else f"srptq.{canonical}"


def _reconstruction(recipe: Recipe) -> Config | None:
    settings = recipe.reconstruction
    return Config(pattern=settings.name, seed=recipe.calibration.seed, **settings.options) if settings else None


def _has_own_bits(stage: StageSettings, recipe: Recipe) -> bool:
    bits = (stage.weights or recipe.weights.bits, stage.activations or recipe.activations.bits)
    return not stage.quantize or bits != (recipe.weights.bits, recipe.activations.bits)
