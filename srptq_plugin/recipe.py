"""The recipe: which target, bits, observers and reconstruction; validated, unknown keys refused."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from srptq_plugin.errors import SrptqError, UnknownNameError
from srptq_plugin.recipe_files import Data, Layer, dump, merge, parse_set, read_layers, shipped, source
from srptq_plugin.recipe_values import Bits, Count, Flag, Plain, Real, Word, key_of, problem, whole
from srptq_plugin.stages import STAGES, Stage

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

    from srptq_plugin.registry import Registry


class Settings(BaseModel):
    """Frozen, and without unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class TensorSettings(Settings):
    """Bits, observer and quantizer of the activations, and the options of both; or not quantized, in simulation."""

    bits: Bits = 8
    observer: Word = "dbdc"
    options: Mapping[Word, Plain] = Field(default_factory=dict[str, Any])
    quantizer: Word = "bounded"
    quantizer_options: Mapping[Word, Plain] = Field(default_factory=dict[str, Any])
    quantize: Flag = True


class WeightSettings(TensorSettings):
    """Bits and observer of the weights."""

    observer: Word = "minmax"
    per_channel: Flag = True


class StageSettings(Settings):
    """Bits of one stage, where they differ from the recipe's."""

    weights: Bits | None = None
    activations: Bits | None = None
    quantize: Flag = True


class SkipSettings(Settings):
    """Bits of what adds read and give where no convolution reads it, if not the activations'; or left float."""

    bits: Bits | None = None
    quantize: Flag = True


class Override(Settings):
    """Bits of what a glob matches: `sites` by the operation that reads or gives it, `tensors` by its own name.

    `bits` are those of weights and activations alike; `weights` and `activations` say them apart.
    """

    sites: Word | None = None
    tensors: Word | None = None
    bits: Bits | None = None
    weights: Bits | None = None
    activations: Bits | None = None
    quantize: Flag | None = None

    @model_validator(mode="after")
    def _named_once(self) -> Self:
        if (self.sites is None) == (self.tensors is None):
            raise ValueError("either sites or tensors, a glob of names")
        if self.tensors is not None and self.quantize is not None:
            raise ValueError("sites with quantize, which is of operations")
        return self


class PacSettings(Settings):
    """PaC's options; a rate of null is the default of its kind of rates."""

    name: Literal["pac"] = "pac"
    epochs: Count = 10
    batch: Count = 2
    schedule: Literal["alternating", "joint"] = "joint"
    rates: Literal["relative", "absolute"] = "relative"
    weight_rate: Real | None = None
    activation_rate: Real | None = None
    weights: Literal["fixed", "rounding", "free"] = "fixed"
    value_rate: Real = 0.02
    start: Literal["observed", "image"] = "observed"
    bias_correction: Flag = False
    feature_weight: Real = 5.0
    blocks: Literal["equal", "sensitivity"] = "equal"
    output_weight: Real = 1.0
    output_loss: Literal["l1", "rms"] = "rms"
    region_weight: Real = 1.0
    recolour: Flag = True
    feature_loss: Literal["sum", "literal"] = "sum"
    gradient: Literal["full", "pact"] = "full"

    def options(self) -> dict[str, Any]:
        """What `reconstruct` is called with."""
        return self.model_dump(exclude={"name"}, exclude_none=True)


class OtherSettings(Settings):
    """Another reconstruction and its options, which only it knows."""

    model_config = ConfigDict(frozen=True, extra="allow")
    __pydantic_extra__: dict[str, Plain]  # pyright: ignore[reportIncompatibleVariableOverride]

    name: Word

    def options(self) -> dict[str, Any]:
        """What the reconstruction is called with."""
        return dict(self.model_extra or {})


class Calibration(Settings):
    """The images to calibrate on, the factor by which to make them smaller, and the patches cut from them.

    With `choose: detail` they are those of most detail among four times as many; with `noise` no image is looked at.
    """

    images: Word | None = None
    scale: Annotated[int, whole(1, 16)] | None = None
    patches: Count = 100
    size: Count = 48
    choose: Literal["random", "detail", "noise"] = "random"
    batch: Count = 16
    seed: Annotated[int, whole(0, 2**32 - 1)] = 0


class TrainingSettings(Settings):
    """Training from calibrated bounds; what the rates are shares of is in `qat.training.Options`."""

    steps: Count = 1000
    batch: Count = 8
    patch: Count = 48
    seed: Annotated[int, whole(0, 2**32 - 1)] = 0
    bound_rate: Real = 3e-4
    value_rate: Real = 0.01
    loss: Literal["l1", "rms"] = "l1"
    transfer: Real = 0.0
    calibration: Real = 0.0
    average: Annotated[float, Field(ge=0, lt=1)] = 0.999
    clip: Real = 3.0
    every: Count = 100

    def options(self) -> dict[str, Any]:
        """What training itself takes; the rest is about its images."""
        return self.model_dump(exclude={"batch", "patch", "seed"})


def _default_stages(value: object) -> object:
    """The first and last layer keep 8 bits unless a recipe says otherwise."""
    if not isinstance(value, Mapping):
        return value
    given = cast("Data", value)
    ends: Data = {"weights": 8, "activations": 8}
    base: Data = {stage: ends if stage in ("head", "tail") else {} for stage in STAGES}
    return merge([Layer("", base), Layer("", given)])


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
    target: Word
    preset: Word | None = None
    toolkit: Word = "torchao"
    export: Mapping[Word, Plain] = Field(default_factory=dict[str, Any])
    placement: Literal["convs", "full"] | None = None
    equalise: Flag = False
    weights: WeightSettings = WeightSettings()
    activations: TensorSettings = TensorSettings()
    stages: Annotated[Mapping[Stage, StageSettings], BeforeValidator(_default_stages)] = Field(
        default_factory=dict[Stage, StageSettings], validate_default=True
    )
    skips: SkipSettings = SkipSettings()
    overrides: tuple[Override, ...] = ()
    reconstruction: Annotated[PacSettings | OtherSettings | None, BeforeValidator(_reconstruction)] = None
    calibration: Calibration = Calibration()
    training: TrainingSettings = TrainingSettings()

    @classmethod
    def load(cls, name_or_path: str | Path, overrides: Sequence[str] = ()) -> "Recipe":
        """A shipped recipe by name, or a .yaml file by path; each override is `dotted.key=value`."""
        return cls.from_layers([*read_layers(name_or_path), *map(parse_set, overrides)])

    @classmethod
    def from_layers(cls, layers: Sequence[Layer]) -> "Recipe":
        """A recipe from mappings, a later one over an earlier one."""
        try:
            return cls.model_validate(merge(layers))
        except ValidationError as error:
            lines = dict.fromkeys(_line(details, layers) for details in error.errors(include_url=False))
            raise SrptqError("\n".join(lines)) from error

    @staticmethod
    def names() -> list[str]:
        """The names of the shipped recipes."""
        return list(shipped())

    def mqbench(self) -> Any:
        """The recipe for a plain MQBench script: `.backend`, `.prepare_custom_config_dict`, `.reconstruction`.

        `.differences` says where MQBench will not do what the recipe's target does.
        """
        from srptq_plugin.registry import Registry  # noqa: PLC0415 - the registry needs no recipe, but its plugins may

        return Registry().toolkit("mqbench").load().settings(self)  # pyright: ignore[reportAttributeAccessIssue]

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


def _line(error: "ErrorDetails", layers: Sequence[Layer]) -> str:
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
        raise SrptqError("\n".join(f"recipe {recipe.name}: {text}" for text in problems))


def _unknown(key: str, find: Callable[[str], object], name: str) -> str:
    try:
        find(name)
    except UnknownNameError as error:
        return f"{key}: {error}"
    return ""
