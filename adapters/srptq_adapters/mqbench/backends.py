"""MQBench's backends and our targets, both ways, and a recipe as the config of a plain MQBench script."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from mqbench.prepare_by_platform import BackendType, ParamsTable  # pyright: ignore[reportMissingImports]

from srptq_adapters.mqbench.config import FORCED
from srptq_adapters.mqbench.grids import scheme_of
from srptq_adapters.mqbench.pattern import Config
from srptq_plugin.errors import SrptqError, UnknownNameError
from srptq_plugin.graph.rules import Rules
from srptq_plugin.plugins.bound_recipe import BoundRecipe
from srptq_plugin.plugins.registry import Registry
from srptq_plugin.quantization.grid import IntGrid
from srptq_plugin.recipes.recipe import Recipe
from srptq_plugin.recipes.schema import SkipSettings, StageSettings

TARGETS = {"Tensorrt": "tensorrt", "SNPE": "snpe", "OPENVINO": "openvino", "QDQ": "onnxruntime", "Academic": "paper"}
"""By the name of the backend."""


def target_of(backend: Any) -> str:
    """The target that a backend of MQBench's deploys to.

    >>> target_of(BackendType.SNPE)
    'snpe'
    """
    if backend.name not in TARGETS:
        raise SrptqError(f"{UnknownNameError('backend', backend.name, TARGETS)}; the others have no target of ours")
    return TARGETS[backend.name]


def backend_of(target: str) -> Any:
    """The backend of MQBench's that deploys to a target.

    >>> backend_of("onnxruntime").name
    'QDQ'
    """
    names = {ours: theirs for theirs, ours in TARGETS.items()}
    if target not in names:
        raise SrptqError(f"{UnknownNameError('target of MQBench', target, names)}; `--toolkit mqbench` runs the others")
    return BackendType[names[target]]


@dataclass(frozen=True)
class MQBenchConfig:
    """What `prepare_by_platform` and `ptq_reconstruction` are called with.

    `differences` says where MQBench will not do what the recipe's target does.
    """

    backend: Any
    prepare_custom_config_dict: Mapping[str, Any]
    reconstruction: Config | None
    differences: tuple[str, ...] = field(default=())


def settings_of(recipe: Recipe, registry: Registry) -> MQBenchConfig:
    """A recipe as the config of a plain MQBench script."""
    bound = BoundRecipe.of(recipe, registry)
    recipe, rules = bound.recipe, bound.rules
    backend = backend_of(registry.target(recipe.target).name)
    grids = {"w": _weights(recipe, rules), "a": rules.sized(rules.activations, recipe.activations.bits)}
    sides = {"w": recipe.weights, "a": recipe.activations}
    qconfig: dict[str, Any] = {}
    for side, settings in sides.items():
        qconfig[f"{side}_observer"] = _observer_name(settings.observer, registry)
        qconfig[f"{side}_fakequantize"] = _quantizer_name(settings.quantizer, registry)
        qconfig[f"{side}_qscheme"] = dict(scheme_of(grids[side]))
        if settings.options:
            qconfig[f"{side}_observer_extra_args"] = dict(settings.options)
        if settings.quantizer_options:
            qconfig[f"{side}_fakeq_params"] = dict(settings.quantizer_options)
    found = recipe.reconstruction
    pattern = Config(pattern=found.name, seed=recipe.calibration.seed, **found.options) if found else None
    return MQBenchConfig(backend, {"extra_qconfig_dict": qconfig}, pattern, tuple(differences(recipe, rules, backend)))


def _weights(recipe: Recipe, rules: Rules) -> IntGrid:
    axis = 0 if recipe.weights.per_channel else None
    return replace(rules.sized(rules.weights, recipe.weights.bits), channel_axis=axis)


def _observer_name(name: str, registry: Registry) -> str:
    found = registry.observer(name).name
    return found if found == "dbdc" else f"srptq.{found}"


def _quantizer_name(name: str, registry: Registry) -> str:
    found = registry.quantizer(name).name
    return "BoundedFakeQuantize" if found == "bounded" else f"srptq.{found}"


def differences(recipe: Recipe, rules: Rules, backend: Any) -> Iterator[str]:
    """What a backend of MQBench's makes of a recipe, where that is not what the target does."""
    row = ParamsTable[backend]
    for key, grid in (("w_qscheme", _weights(recipe, rules)), ("a_qscheme", rules.activations)):
        default = row.get(key)
        ours = scheme_of(grid)
        if default is not None:
            changed = [name for name in ("symmetry", "per_channel") if getattr(default, name) != ours[name]]
            if changed:
                told = ", ".join(f"{name} {getattr(default, name)} (here {ours[name]})" for name in changed)
                yield f"{key}: MQBench's {backend.name} has {told}; the config gives the target's"
        if grid.float_zero_point:
            yield f"{key}: {recipe.target} has levels anywhere; MQBench rounds zero to one of them"
        if grid.signed != grid.symmetric:
            yield f"{key}: {recipe.target} counts {grid.qmin}..{grid.qmax}; MQBench stores the same numbers from 0"
    yield from _placement(recipe, rules, backend)


def _placement(recipe: Recipe, rules: Rules, backend: Any) -> Iterator[str]:
    placement = rules.placement(recipe.placement)
    if backend.name == "Academic" and placement == "full":
        yield "placement full: MQBench's Academic quantizes the inputs of convolutions only"
    if backend.name != "Academic":
        yield f"placement {placement}: MQBench's {backend.name} quantizes by its own rules, one quantizer a tensor"
    own = [stage for stage, settings in recipe.stages.items() if _differs(settings, recipe)]
    if own:
        kept = "looks only at the layers next to the input and the output" if backend.name == "Academic" else "has none"
        yield f"stages {', '.join(own)}: bits of their own; MQBench's {backend.name} {kept}"
    if recipe.skips != SkipSettings():
        yield "skips: MQBench has no bits of their own for them"
    if recipe.overrides:
        yield "overrides: MQBench has none"
    if recipe.equalize:
        yield "equalize: MQBench has none; give it `srptq_plugin.equalize(network, recipe, images)`"
    if rules.pair_sum_bits and recipe.weights.overflow_safe and backend.name != FORCED:
        yield "weights.overflow_safe: MQBench has none; `srptq lint` tells which channels of its file overflow"
    if backend.name == FORCED:
        yield "w_qscheme: MQBench's OPENVINO takes -64..63 for weights, whatever is asked"


def _differs(stage: StageSettings, recipe: Recipe) -> bool:
    bits = (stage.weights or recipe.weights.bits, stage.activations or recipe.activations.bits)
    return not stage.quantize or bits != (recipe.weights.bits, recipe.activations.bits)
