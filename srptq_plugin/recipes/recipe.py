"""The recipe as a whole: made from files, `--set` and mappings; validated, unknown keys refused."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

from pydantic import BaseModel, BeforeValidator, Field, ValidationError

from srptq_plugin.errors import SrptqError, UnknownNameError, at_once
from srptq_plugin.graph.stages import STAGES, Stage
from srptq_plugin.recipes.field_types import Flag, Plain, Word, key_of, problem
from srptq_plugin.recipes.recipe_files import Data, RecipeLayer, dump, merge, parse_set, read_layers, shipped, source
from srptq_plugin.recipes.renamed_keys import use_new_names
from srptq_plugin.recipes.schema import (
    Calibration,
    OtherSettings,
    Override,
    PacSettings,
    Settings,
    SkipSettings,
    StageSettings,
    TensorSettings,
    TrainingSettings,
    WeightSettings,
)

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

    from srptq_plugin.plugins.registry import Registry


def _default_stages(value: object) -> object:
    """The first and last layer keep 8 bits unless a recipe says otherwise."""
    if not isinstance(value, Mapping):
        return value
    given = cast("Data", value)
    ends: Data = {"weights": 8, "activations": 8}
    base: Data = {stage: ends if stage in ("head", "tail") else {} for stage in STAGES}
    return merge([RecipeLayer("", base), RecipeLayer("", given)])


def _reconstruction(value: object) -> object:
    if value is None or isinstance(value, BaseModel):
        return value
    if not isinstance(value, Mapping):
        raise ValueError("null, or a mapping such as {name: pac}")  # noqa: TRY004 - pydantic collects ValueError only
    given = cast("Data", value)
    return (PacSettings if given.get("name", "pac") == "pac" else OtherSettings).model_validate(given)


class Recipe(Settings):
    """All that decides a quantization, but for the network.

    >>> recipe = Recipe.load("openvino-w8a8", ["activations.bits=6"])
    >>> recipe.target, recipe.activations.bits, recipe.stages["head"].activations
    ('openvino', 6, 8)
    """

    name: Word = "recipe"
    """Its name in messages; a file's own name where it says none, and never inherited."""
    target: Word
    """What the network is to run on."""
    preset: Word | None = None
    """Which of the target's rules; `null` is its first."""
    toolkit: Word = "torchao"
    """Which toolkit puts the quantizers in."""
    export: Mapping[Word, Plain] = Field(default_factory=dict[str, Any])
    """What the target writes beyond the usual."""
    placement: Literal["convs", "full"] | None = None
    """Quantizers at weights and inputs of convolutions, or all that integer runtimes need; `null` is the target's."""
    equalize: Flag = False
    """Whether channels are scaled first, so that rounding moves the image least; the float network stays as it was."""
    weights: WeightSettings = WeightSettings()
    """How weights are quantized."""
    activations: TensorSettings = TensorSettings()
    """How activations are quantized."""
    stages: Annotated[Mapping[Stage, StageSettings], BeforeValidator(_default_stages)] = Field(
        default_factory=dict[Stage, StageSettings], validate_default=True
    )
    """Bits by stage."""
    skips: SkipSettings = SkipSettings()
    """Bits of skips."""
    overrides: tuple[Override, ...] = ()
    """Bits by name."""
    reconstruction: Annotated[PacSettings | OtherSettings | None, BeforeValidator(_reconstruction)] = None
    """What tunes the bounds."""
    calibration: Calibration = Calibration()
    """What is looked at."""
    training: TrainingSettings = TrainingSettings()
    """How `srptq train` goes on."""

    @classmethod
    def load(cls, name_or_path: str | Path, overrides: Sequence[str] = ()) -> "Recipe":
        """A shipped recipe by name, or a .yaml file by path; each override is `dotted.key=value`."""
        return cls.from_layers([*read_layers(name_or_path), *map(parse_set, overrides)])

    @classmethod
    def from_layers(cls, layers: Sequence[RecipeLayer]) -> "Recipe":
        """Make a recipe from mappings. A later one overrides an earlier one."""
        layers = [use_new_names(layer) for layer in layers]
        try:
            return cls.model_validate(merge(layers))
        except ValidationError as error:
            lines = (_line(details, layers) for details in error.errors(include_url=False))
            raise SrptqError(at_once(lines)) from error

    @staticmethod
    def names() -> list[str]:
        """The names of the shipped recipes."""
        return list(shipped())

    def mqbench(self) -> Any:
        """Forward to `srptq_adapters.mqbench.config_from(recipe)`, which replaces this deprecated method."""
        from srptq_plugin.plugins.registry import Registry  # noqa: PLC0415 - the registry needs no recipe, but its plugins may

        message = "Recipe.mqbench() is deprecated; use srptq_adapters.mqbench.config_from(recipe)"
        warnings.warn(message, DeprecationWarning, stacklevel=2)
        return Registry().toolkit("mqbench").load().config_from(self)  # pyright: ignore[reportAttributeAccessIssue]

    def to_yaml(self) -> str:
        """The recipe in full; loading it gives the same recipe."""
        return dump(self.model_dump(mode="json"))


MODELS: Mapping[str | int, type[Settings]] = {
    "weights": WeightSettings,
    "activations": TensorSettings,
    "stages": StageSettings,
    "skips": SkipSettings,
    "overrides": Override,
    "reconstruction": PacSettings,
    "calibration": Calibration,
    "training": TrainingSettings,
}


def _line(error: "ErrorDetails", layers: Sequence[RecipeLayer]) -> str:
    path = [part for part in error["loc"] if part != "[key]"]
    parent = path if error["type"] == "model_type" else path[:-1]
    model = MODELS.get(parent[0], Recipe) if parent else Recipe
    return f"{source(layers, path)}: {key_of(error) or 'recipe'}: {problem(error, model.model_fields)}"


def check_names(recipe: Recipe, registry: "Registry") -> None:
    """Refuse names that no plugin registered, all of them at once."""
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
    problems = [text for key, find, name in look_ups if (text := _unknown(key, find, name))]
    if problems:
        raise SrptqError(at_once(f"recipe {recipe.name}: {text}" for text in problems))


def _unknown(key: str, find: Callable[[str], object], name: str) -> str:
    try:
        find(name)
    except UnknownNameError as error:
        return f"{key}: {error}"
    return ""
