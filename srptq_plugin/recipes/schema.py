"""The sections of a recipe: keys with types and defaults, and under each the sentence that documents show."""

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from srptq_plugin.utils.field_types import Bits, Count, Flag, Plain, Real, Scale, Seed, Share, Word
from srptq_plugin.utils.options import Options


class TensorSettings(Options):
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


class StageSettings(Options):
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


class SkipSettings(Options):
    """Bits of what adds read, and of what they give where no convolution reads it."""

    bits: Bits | None = None
    """`null` is those of the activations; needs the placement `full`."""
    quantize: Flag = True
    """`false` leaves skips float, in simulation only."""


class Override(Options):
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


class ReconstructionSettings(Options):
    """The reconstruction, which tunes what was calibrated. `reconstruction: null`, the default, tunes nothing.

    Its options stand next to its name. Each reconstruction has its own.
    """

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Plain]  # pyright: ignore[reportIncompatibleVariableOverride]

    name: Word = "pac"
    """Which reconstruction."""

    @property
    def options(self) -> Mapping[str, Any]:
        """The options that the recipe gives."""
        return self.model_extra or {}


class Calibration(Options):
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


class TrainingSettings(Options):
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
