"""The sections of a recipe: keys with types and defaults, and under each the sentence that documents show."""

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from srptq_plugin.recipes.field_types import Bits, Count, Flag, Plain, Real, Scale, Seed, Share, Word


class Settings(BaseModel):
    """Frozen, and without unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class TensorSettings(Settings):
    """Bits, observer and quantizer of the activations, and the options of both."""

    bits: Bits = 8
    """How many bits an activation has, but for stages, skips and overrides that say otherwise."""
    observer: Word = "dbdc"
    """What finds the range to start from."""
    options: Mapping[Word, Plain] = Field(default_factory=dict[str, Any])
    """What the observer takes; another observer inherits none of it."""
    quantizer: Word = "bounded"
    """What rounds, and what of it learns in PaC and in training."""
    quantizer_options: Mapping[Word, Plain] = Field(default_factory=dict[str, Any])
    """What the quantizer takes; another quantizer inherits none of it."""
    quantize: Flag = True
    """`false` leaves all activations float, in simulation only."""


class WeightSettings(TensorSettings):
    """Bits, observer and quantizer of the weights, and the options of both."""

    bits: Bits = 8
    """How many bits a weight has, but for stages and overrides that say otherwise."""
    observer: Word = "minmax"
    """What finds the range to start from."""
    quantize: Flag = True
    """`false` leaves all weights float, in simulation only."""
    per_channel: Flag = True
    """A scale for each output channel, or one for the whole weight."""
    rounding: Literal["nearest", "compensated"] = "nearest"
    """Whether each weight takes its nearest level, or one that makes up for the errors of those rounded before it."""
    overflow_safe: Flag = True
    """Keeps weights small enough for x86 processors without VNNI; `false` if every processor has it."""


class StageSettings(Settings):
    """Bits of one stage, where they differ from the recipe's.

    The stages are `head`, `body`, `upsample` and `tail`, found from the network's dataflow. `head` and `tail` have 8
    bits unless a recipe says otherwise; `null` gives them the recipe's.
    """

    weights: Bits | None = None
    """Bits of the stage's weights; `null` is those of `weights.bits`."""
    activations: Bits | None = None
    """Bits of what the stage's operations read; `null` is those of `activations.bits`."""
    quantize: Flag = True
    """`false` leaves the stage float."""


class SkipSettings(Settings):
    """Bits of what adds read, and of what they give where no convolution reads it."""

    bits: Bits | None = None
    """`null` is those of the activations; needs the placement `full`."""
    quantize: Flag = True
    """`false` leaves skips float, in simulation only."""


class Override(Settings):
    """Bits of what a glob matches: a list, empty by default.

    Each entry has either `sites` or `tensors`, and a later entry wins.
    """

    sites: Word | None = None
    """A glob of module paths or operation keys: their weights, what they read and what they give."""
    tensors: Word | None = None
    """A glob of tensors: names of parameters, or the operation key of what gives a tensor."""
    bits: Bits | None = None
    """Bits of weights and activations alike."""
    weights: Bits | None = None
    """Bits of the weights, apart from those of activations."""
    activations: Bits | None = None
    """Bits of the activations, apart from those of weights."""
    quantize: Flag | None = None
    """`false` leaves the operations float; only with `sites`."""

    @model_validator(mode="after")
    def _named_once(self) -> Self:
        if (self.sites is None) == (self.tensors is None):
            raise ValueError("either sites or tensors, a glob of names")
        if self.tensors is not None and self.quantize is not None:
            raise ValueError("sites with quantize, which is of operations")
        return self


class PacSettings(Settings):
    """PaC (pixel-aware calibration), which tunes bounds against the float network.

    `reconstruction: null`, the default, tunes nothing.

    The paper's own are `epochs: 10`, `batch: 2`, `schedule: alternating`, `rates: absolute`, `weight_rate: 0.001`,
    `activation_rate: 0.05`, `start: observed`, `output_loss: l1`, `region_weight: 0`, `recolor: false`,
    `feature_weight: 5` and `gradient: pact`, for images from 0 to 255. Equation (8) as printed is the `feature_loss`
    `literal`. The text beside it, a mean square error, is `sum`, but for the division by the number of values.
    """

    name: Literal["pac"] = "pac"
    """Which reconstruction; the other keys here are those of `pac`."""
    epochs: Count = 10
    """How often every patch is seen."""
    batch: Count = 2
    """Patches a step."""
    schedule: Literal["alternating", "joint"] = "joint"
    """Whether weights' and activations' bounds learn by turns, an epoch each, or together."""
    rates: Literal["relative", "absolute"] = "relative"
    """Whether rates are shares of a site's range, or steps in its own units."""
    weight_rate: Real | None = None
    """How fast bounds of weights learn; `null` is 0.001."""
    activation_rate: Real | None = None
    """How fast bounds of activations learn; `null` is 0.001."""
    weights: Literal["fixed", "rounding", "free"] = "fixed"
    """Whether weights learn: not at all, which of two neighboring levels to take, or freely and biases with them."""
    value_rate: Real = 0.02
    """How fast weights and biases learn, a share of a weight's step."""
    start: Literal["observed", "image"] = "observed"
    """Whether tuning starts from the observer's bounds, or of all it offers from those that move the image least."""
    bias_correction: Flag = False
    """Whether biases first give each channel the mean that it has in the float network."""
    feature_weight: Real = 5.0
    """How much the maps of the blocks count in the loss."""
    blocks: Literal["equal", "sensitivity"] = "equal"
    """Whether all blocks count alike, or by what the image makes of their noise."""
    output_weight: Real = 1.0
    """How much the image counts in the loss."""
    output_loss: Literal["l1", "rms"] = "rms"
    """Whether the image's error is its mean or its root mean square."""
    region_weight: Real = 1.0
    """How much regions of 16 x 16 pixels count beside single pixels."""
    recolor: Flag = True
    """Whether every second patch is given other colors."""
    feature_loss: Literal["sum", "literal"] = "sum"
    """Whether maps of unit norm are compared by their squared distance, or by their distance over how many values."""
    gradient: Literal["full", "pact"] = "full"
    """Whether bounds learn from all values, or from clipped ones alone."""

    def options(self) -> dict[str, Any]:
        """What `reconstruct` is called with."""
        return self.model_dump(exclude={"name"}, exclude_none=True)


class OtherSettings(Settings):
    """Another reconstruction and its options, which only it knows."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Plain]  # pyright: ignore[reportIncompatibleVariableOverride]

    name: Word
    """Which reconstruction."""

    def options(self) -> dict[str, Any]:
        """What the reconstruction is called with."""
        return dict(self.model_extra or {})


class Calibration(Settings):
    """The patches that ranges and PaC are found on."""

    images: Word | None = None
    """A folder of images; `null` is the photographs of scikit-image, and `--images` names others."""
    scale: Scale | None = None
    """By how much the images are made smaller first; `null` takes those of a folder as they are."""
    patches: Count = 100
    """How many patches are cut from the images."""
    size: Count = 48
    """Height and width of a patch."""
    choose: Literal["random", "detail", "noise"] = "random"
    """Patches at random, those of most detail among four times as many, or noise, which looks at no image."""
    batch: Count = 16
    """Patches an observer sees at once."""
    seed: Seed = 0
    """What all chance comes from."""


class TrainingSettings(Settings):
    """Training from calibrated bounds, by `srptq train`."""

    steps: Count = 1000
    """How many steps."""
    batch: Count = 8
    """Patches a step."""
    patch: Count = 48
    """Height and width of a patch, before it is enlarged."""
    seed: Seed = 0
    """What the choice of patches comes from."""
    bound_rate: Real = 3e-4
    """How fast bounds learn, a share of a site's range."""
    value_rate: Real = 0.01
    """How fast weights and biases learn, a share of a weight's step."""
    loss: Literal["l1", "rms"] = "l1"
    """Whether the image's error is its mean or its root mean square."""
    transfer: Real = 0.0
    """How much PAMS's structured knowledge transfer counts, the distance of its paper's equation."""
    calibration: Real = 0.0
    """How much FQSR's calibration loss counts; its paper has 0.3."""
    average: Share = 0.999
    """How slowly the running average that is kept follows what learns."""
    clip: Real = 3.0
    """Gradients longer than so many times their usual length are shortened to that."""
    every: Count = 100
    """Steps from one validation, and checkpoint, to the next."""

    def options(self) -> dict[str, Any]:
        """What training itself takes; the rest is about its images."""
        return self.model_dump(exclude={"batch", "patch", "seed"})
