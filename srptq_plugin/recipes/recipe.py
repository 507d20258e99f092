"""The recipe: merged from files, overrides and mappings, and validated."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

from pydantic import BaseModel, BeforeValidator, Field, ValidationError

from srptq_plugin.errors import SrptqError, at_once
from srptq_plugin.graph.stages import STAGES, Stage
from srptq_plugin.recipes.recipe_files import (
    ARGUMENTS,
    Data,
    RecipeLayer,
    dump,
    merge,
    parse_set,
    read_layers,
    shipped,
    source,
)
from srptq_plugin.recipes.renamed_keys import use_new_names
from srptq_plugin.recipes.schema import (
    Calibration,
    Override,
    ReconstructionSettings,
    SkipSettings,
    StageSettings,
    TensorSettings,
    TrainingSettings,
    WeightSettings,
)
from srptq_plugin.utils.field_types import Flag, Plain, Share, Word, key_of, problem
from srptq_plugin.utils.options import Options

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails


def _default_stages(value: object) -> object:
    """Give the head and the tail 8 bits, unless the recipe has others."""
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
    return cast("Data", value)


class Recipe(Options):
    """Everything that decides a quantization, except for the network.

    >>> recipe = Recipe.load("openvino-w8a8", ["activations.bits=6"])
    >>> recipe.target, recipe.activations.bits, recipe.stages["head"].activations
    ('openvino', 6, 8)
    """

    name: Word = "recipe"
    """The name in messages. By default it is the name of the file. It is never inherited."""
    target: Word
    """The deployment target, which the network will run on."""
    preset: Word | None = None
    """The preset of the target's rules. `null` means its first."""
    toolkit: Word = "torchao"
    """The toolkit that inserts the fake-quantizers."""
    export: Mapping[Word, Plain] = Field(default_factory=dict[str, Any])
    """Options of the target's writer."""
    placement: Literal["convs", "full"] | None = None
    """`convs` quantizes weights and inputs of convolutions, `full` all that integer runtimes need."""
    rotate: Flag = False
    """`true` first makes other channels of feature maps that only linear operations write and read, such as sums.

    They are linear combinations of the channels, at which rounding changes the image least. The float network computes
    the same.
    """
    equalize: Flag = False
    """`true` first scales channels so that rounding changes the image least. The float network computes the same."""
    float_above: Share | None = None
    """An operation stays float if its rounding makes a larger share of the image's noise. `null` leaves none float.

    Only operations that multiply little stay float.
    """
    weights: WeightSettings = WeightSettings()
    """Quantization of weights."""
    activations: TensorSettings = TensorSettings()
    """Quantization of activations."""
    stages: Annotated[Mapping[Stage, StageSettings], BeforeValidator(_default_stages)] = Field(
        default_factory=dict[Stage, StageSettings], validate_default=True
    )
    """Bits by stage."""
    skips: SkipSettings = SkipSettings()
    """Bits of skips."""
    overrides: tuple[Override, ...] = ()
    """Bits by name."""
    reconstruction: Annotated[ReconstructionSettings | None, BeforeValidator(_reconstruction)] = None
    """The reconstruction, which tunes the bounds."""
    calibration: Calibration = Calibration()
    """The calibration patches."""
    training: TrainingSettings = TrainingSettings()
    """The settings of `srptq train`."""

    @classmethod
    def load(cls, name_or_path: str | Path, overrides: Sequence[str] = ()) -> "Recipe":
        """Read a shipped recipe by its name, or a .yaml file by its path. Each override is `dotted.key=value`."""
        return cls.from_layers([*read_layers(name_or_path), *map(parse_set, overrides)])

    @classmethod
    def resolve(
        cls, recipe: "str | Path | Recipe", overrides: Sequence[str] = (), changes: Data | None = None
    ) -> "Recipe":
        """Read a recipe, unless it is one already, and change it.

        Args:
            recipe: a recipe, the name of a shipped one, or the path of a .yaml file.
            overrides: each `dotted.key=value`.
            changes: sections and keys that override all others.
        """
        is_loaded = isinstance(recipe, Recipe)
        layers = [RecipeLayer(recipe.name, recipe.model_dump())] if is_loaded else read_layers(recipe)
        return cls.from_layers([*layers, *map(parse_set, overrides), RecipeLayer(ARGUMENTS, changes or {})])

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
        """Return the names of the shipped recipes."""
        return list(shipped())

    def to_yaml(self) -> str:
        """Return the recipe in full as YAML. Loading it gives the same recipe."""
        return dump(self.model_dump(mode="json"))


MODELS: Mapping[str | int, type[Options]] = {
    "weights": WeightSettings,
    "activations": TensorSettings,
    "stages": StageSettings,
    "skips": SkipSettings,
    "overrides": Override,
    "reconstruction": ReconstructionSettings,
    "calibration": Calibration,
    "training": TrainingSettings,
}


def _line(error: "ErrorDetails", layers: Sequence[RecipeLayer]) -> str:
    path = [part for part in error["loc"] if part != "[key]"]
    parent = path if error["type"] == "model_type" else path[:-1]
    model = MODELS.get(parent[0], Recipe) if parent else Recipe
    return f"{source(layers, path)}: {key_of(error) or 'recipe'}: {problem(error, model.model_fields)}"
