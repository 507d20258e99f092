"""BoundRecipe: a recipe with the plugins that its names stand for."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from inspect import signature
from pathlib import Path
from typing import Any

from srptq_plugin.errors import SrptqError, UnknownNameError, at_once
from srptq_plugin.graph.network import Network
from srptq_plugin.graph.rules import Rules
from srptq_plugin.planning.plan import ObserverFactoryForGrid, Plan, QConfig, Role
from srptq_plugin.planning.planner import make_plan
from srptq_plugin.plugins.compatibility import dynamic_problems, problems
from srptq_plugin.plugins.protocols import Adaptable, ObserverFactory, Target, Toolkit
from srptq_plugin.plugins.registry import Registry
from srptq_plugin.quantization.grid import IntGrid
from srptq_plugin.quantization.observer import Observer
from srptq_plugin.recipes.recipe import Recipe
from srptq_plugin.recipes.schema import ReconstructionSettings, TensorSettings
from srptq_plugin.utils.options import Options

Tune = partial[Mapping[str, float]]
"""A reconstruction with its options. It takes a prepared graph, images and `progress`."""


@dataclass(frozen=True)
class BoundRecipe:
    """A recipe and all that its names stand for.

    >>> bound = BoundRecipe.of(Recipe.load("openvino-w8a8"), Registry())
    >>> bound.rules.placement(bound.recipe.placement), bound.tune is None
    ('full', False)
    """

    recipe: Recipe
    registry: Registry
    target: Target
    rules: Rules
    qconfigs: Mapping[Role, QConfig]
    """The observers and quantizers of weights and of activations."""
    tune: Tune | None
    """The reconstruction, or None if the recipe has none."""

    @classmethod
    def of(cls, recipe: Recipe, registry: Registry) -> "BoundRecipe":
        """Look up every name of a recipe and check the recipe against the rules of its target.

        Raises `SrptqError` if the recipe contradicts itself, names a plugin that is not installed, or asks for
        something that its target does not run. Problems of one kind are reported together.
        """
        _check_calibration(recipe)
        _check_names(recipe, registry)
        recipe = _with_all_options(recipe, registry)
        target, rules = bind_target(recipe, registry)
        qconfigs: dict[Role, QConfig] = {
            "weight": _qconfig("weights", recipe.weights, registry),
            "activation": _qconfig("activations", recipe.activations, registry),
        }
        return cls(recipe, registry, target, rules, qconfigs, _tune(recipe, registry))

    @classmethod
    def resolve(
        cls,
        recipe: str | Path | Recipe,
        registry: Registry,
        *,
        overrides: Sequence[str] = (),
        images: Path | None = None,
        scale: int | None = None,
        toolkit: str | None = None,
    ) -> "BoundRecipe":
        """Read a recipe, change it as the arguments say, and bind it.

        Args:
            recipe: a recipe, the name of a shipped one, or the path of a .yaml file.
            overrides: each `dotted.key=value`.
            images: the folder of calibration images.
            scale: the factor by which the calibration images are downscaled first.
            toolkit: the toolkit in place of the recipe's.
        """
        calibration = {"images": None if images is None else str(Path(images).absolute()), "scale": scale}
        changes = {"toolkit": toolkit, "calibration": _without_none(calibration)}
        return cls.of(Recipe.resolve(recipe, overrides, _without_none(changes)), registry)

    @cached_property
    def toolkit(self) -> Toolkit:
        """The toolkit, imported when it is first used."""
        return self.registry.toolkit(self.recipe.toolkit).load()

    def plan(self, network: Network, input_range: tuple[float, float]) -> Plan:
        """Decide every site of a network."""
        return make_plan(network, self.rules, self.recipe, input_range, self.qconfigs)

    def with_recipe(self, recipe: Recipe) -> "BoundRecipe":
        """Bind another recipe to the same plugins."""
        return BoundRecipe.of(recipe, self.registry)

    def without_tuning(self) -> "BoundRecipe":
        """Leave the reconstruction out."""
        return replace(self, recipe=self.recipe.model_copy(update={"reconstruction": None}), tune=None)


def takes_checkpoint(tune: Tune) -> bool:
    """Tell whether a reconstruction can go on from a checkpoint: it has a parameter of this name."""
    return "checkpoint" in signature(tune).parameters


def _without_none(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


def _check_calibration(recipe: Recipe) -> None:
    settings = recipe.calibration
    if settings.choose == "noise" and (settings.images or settings.scale):
        raise SrptqError(
            f"recipe {recipe.name}: calibration.choose: noise takes no images; leave them out, or choose random"
        )


def _check_names(recipe: Recipe, registry: Registry) -> None:
    look_ups: list[tuple[str, Callable[[str], object], str]] = [
        ("target", registry.target, recipe.target),
        ("toolkit", registry.toolkit, recipe.toolkit),
        ("weights.observer", registry.observer, recipe.weights.observer),
        ("activations.observer", registry.observer, recipe.activations.observer),
        ("weights.quantizer", registry.quantizer, recipe.weights.quantizer),
        ("activations.quantizer", registry.quantizer, recipe.activations.quantizer),
    ]
    if recipe.reconstruction:
        look_ups.append(("reconstruction.name", registry.reconstruction, recipe.reconstruction.name))
    _refuse(recipe, (text for key, look_up, name in look_ups if (text := _unknown(key, look_up, name))))


def _unknown(key: str, look_up: Callable[[str], object], name: str) -> str:
    try:
        look_up(name)
    except UnknownNameError as error:
        return f"{key}: {error}"
    return ""


def _refuse(recipe: Recipe, texts: Iterable[str]) -> None:
    """Raise all problems at once, if there are any."""
    lines = [f"recipe {recipe.name}: {text}" for text in texts]
    if lines:
        raise SrptqError(at_once(lines))


def _with_all_options(recipe: Recipe, registry: Registry) -> Recipe:
    """Validate the options of plugins and fill in their defaults, so that a written recipe says all.

    Mistakes of all sections are raised together.
    """
    mistakes: list[str] = []

    def parse(model: type[Options], values: Mapping[str, object], section: str) -> dict[str, Any]:
        try:
            return dict(model.parse(values, section))
        except SrptqError as error:
            mistakes.extend(str(error).splitlines())
            return {}

    changes: dict[str, Any] = {"export": parse(registry.target(recipe.target).options, recipe.export, "export")}
    for section in ("weights", "activations"):
        settings: TensorSettings = getattr(recipe, section)
        observer, quantizer = registry.observer(settings.observer), registry.quantizer(settings.quantizer)
        options = parse(observer.options, settings.options, f"{section}.options")
        own = parse(quantizer.options, settings.quantizer_options, f"{section}.quantizer_options")
        changes[section] = settings.model_copy(update={"options": options, "quantizer_options": own})
    if recipe.reconstruction:
        name = recipe.reconstruction.name
        options = parse(registry.reconstruction(name).options, recipe.reconstruction.options, "reconstruction")
        changes["reconstruction"] = ReconstructionSettings.model_validate({"name": name, **options})
    _refuse(recipe, mistakes)
    return recipe.model_copy(update=changes)


def bind_target(recipe: Recipe, registry: Registry) -> tuple[Target, Rules]:
    """Look up the target of a recipe and the rules of its preset. Raise `SrptqError` for what they do not allow.

    A finished run needs no more: the plugins of its observers and its reconstruction need not be installed.
    """
    target = registry.target(recipe.target).load()
    preset = recipe.preset or next(iter(target.presets))
    if preset not in target.presets:
        unknown = UnknownNameError(f"preset of {recipe.target}", preset, target.presets)
        raise SrptqError(f"recipe {recipe.name}: preset: {unknown}")
    rules = target.presets[preset]
    if isinstance(target, Adaptable):
        rules = target.adapt(rules, **recipe.export)
    dynamic = {
        section: bool(registry.quantizer(getattr(recipe, section).quantizer).load().dynamic)
        for section in ("weights", "activations")
    }
    _refuse(
        recipe,
        [
            *problems(recipe, rules),
            *dynamic_problems(recipe, rules, dynamic),
        ],
    )
    return target, rules


def _qconfig(section: str, settings: TensorSettings, registry: Registry) -> QConfig:
    kind, options = registry.quantizer(settings.quantizer).load(), settings.quantizer_options
    try:
        kind("", IntGrid(settings.bits), constant=section == "weights", options=options)
    except (TypeError, SrptqError) as error:
        raise SrptqError(f"{section}.quantizer: {settings.quantizer}: {error}") from error
    return QConfig(_observer_factory(section, settings, registry), kind, options)


def _observer_factory(section: str, settings: TensorSettings, registry: Registry) -> ObserverFactoryForGrid:
    factory: ObserverFactory = registry.observer(settings.observer).load()

    def make(grid: IntGrid, tensors_per_batch: int) -> Observer:
        try:
            return factory(grid, tensors_per_batch=tensors_per_batch, **settings.options)
        except (TypeError, SrptqError) as error:
            raise SrptqError(f"{section}.options: observer {settings.observer}: {error}") from error

    make(IntGrid(settings.bits), 1)  # finds mistakes in the options before any image is read
    return make


def _tune(recipe: Recipe, registry: Registry) -> Tune | None:
    settings = recipe.reconstruction
    if settings is None:
        return None
    tune = registry.reconstruction(settings.name).load()
    return partial(tune, seed=recipe.calibration.seed, **settings.options)
