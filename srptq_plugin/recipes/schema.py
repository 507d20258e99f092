"""The sections of a recipe. Every key has a type, a default, and the sentence that documents show."""

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from srptq_plugin.utils.field_types import Bits, Count, Flag, Plain, Real, Scale, Seed, Share, Word
from srptq_plugin.utils.options import Options


class TensorSettings(Options):
    """Bits, observer and quantizer of the activations."""

    bits: Bits = 8
    """Bits of an activation. Stages, skips and overrides may change them."""
    observer: Word = "dbdc"
    """The observer, which finds the range to start from."""
    options: Mapping[Word, Plain] = Field(default_factory=dict[str, Any])
    """Options of the observer. A recipe that changes the observer inherits none."""
    quantizer: Word = "bounded"
    """The fake-quantizer. It decides what learns in PaC and in training."""
    quantizer_options: Mapping[Word, Plain] = Field(default_factory=dict[str, Any])
    """Options of the quantizer. A recipe that changes the quantizer inherits none."""
    quantize: Flag = True
    """`false` leaves all activations float, in simulation only."""


class WeightSettings(TensorSettings):
    """Bits, observer and quantizer of the weights."""

    bits: Bits = 8
    """Bits of a weight. Stages and overrides may change them."""
    observer: Word = "minmax"
    """The observer, which finds the range to start from."""
    quantize: Flag = True
    """`false` leaves all weights float, in simulation only."""
    per_channel: Flag = True
    """`true` gives each output channel a scale, `false` the whole weight one."""
    rounding: Literal["nearest", "compensated"] = "nearest"
    """`nearest` rounds each weight alone, `compensated` (GPTQ) makes up for the errors of weights rounded before it."""
    overflow_safe: Flag = True
    """`true` keeps weights safe from overflow on x86 processors without VNNI."""


class StageSettings(Options):
    """Bits of one stage, if they differ from the recipe's.

    The stages are `head`, `body`, `upsample` and `tail`. They are found from the network's dataflow. `upsample` begins
    where maps become larger than the head's and stay larger. Attention that restores a size belongs to its stage.
    `head` and `tail` have 8 bits by default. `null` gives them the recipe's bits.
    """

    weights: Bits | None = None
    """Bits of the stage's weights. `null` means `weights.bits`."""
    activations: Bits | None = None
    """Bits of the tensors that the stage's operations read. `null` means `activations.bits`."""
    quantize: Flag = True
    """`false` leaves the stage float."""


class SkipSettings(Options):
    """Bits of skip connections: the inputs of an add, and its output if no convolution reads it."""

    bits: Bits | None = None
    """Bits of skips, with the placement `full` only. `null` means the bits of activations."""
    quantize: Flag = True
    """`false` leaves skips float, in simulation only."""


class Override(Options):
    """Bits of all that a glob matches. `overrides` is a list, empty by default.

    Each entry has either `sites` or `tensors`, and a later entry wins.
    """

    sites: Word | None = None
    """A glob of module paths or operation keys. It covers their weights, inputs and outputs."""
    tensors: Word | None = None
    """A glob of tensors: the name of a parameter, or the key of the operation that makes the tensor."""
    bits: Bits | None = None
    """Bits of both weights and activations."""
    weights: Bits | None = None
    """Bits of the weights only."""
    activations: Bits | None = None
    """Bits of the activations only."""
    quantize: Flag | None = None
    """`false` leaves the operations float. It needs `sites`."""

    @model_validator(mode="after")
    def _named_once(self) -> Self:
        if (self.sites is None) == (self.tensors is None):
            raise ValueError("either sites or tensors, a glob of names")
        if self.tensors is not None and self.quantize is not None:
            raise ValueError("sites with quantize, which is of operations")
        return self


class ReconstructionSettings(Options):
    """The reconstruction, which tunes the calibrated network. `reconstruction: null`, the default, tunes nothing.

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
    """The calibration patches, from which ranges are found and on which PaC tunes."""

    images: Word | None = None
    """A folder of calibration images. `null` means the photographs of scikit-image."""
    scale: Scale | None = None
    """The factor by which the images are downscaled first. `null` takes the images of a folder as they are."""
    patches: Count = 100
    """Patches to cut from the images."""
    size: Count = 48
    """Height and width of a patch."""
    choose: Literal["random", "detail", "noise"] = "random"
    """`random` patches, the quarter of them with the most `detail`, or synthetic 1/f `noise`, which reads no image."""
    even_areas: Flag = False
    """`true` widens bounds to hold even areas, from black to white and of vivid colors, also if no patch has them."""
    batch: Count = 16
    """Patches in a batch for the observers."""
    seed: Seed = 0
    """The seed of all random draws."""


class TrainingSettings(Options):
    """Training from calibrated bounds, by `srptq train`."""

    steps: Count = 1000
    """Training steps."""
    epochs: Count | None = None
    """Passes, in place of `steps`. A pass has as many patches as there are images to train on."""
    batch: Count = 8
    """Patches in a step."""
    patch: Count = 48
    """Height and width of a low-resolution patch."""
    seed: Seed = 0
    """The seed of the choice of patches."""
    rates: Literal["relative", "absolute"] = "relative"
    """`relative` rates are shares. `absolute` ones are a weight's units, and 8-bit image levels for activations."""
    bound_rate: Real = 3e-4
    """Learning rate of bounds. If relative, to the range of the site."""
    value_rate: Real = 0.01
    """Learning rate of weights and biases. If relative, to the scale of the weight."""
    schedule: Literal["cosine", "halving", "constant"] = "cosine"
    """Rates fall along half a cosine to 0, or by half every `halve_every` steps, or not at all."""
    halve_every: Count = 1000
    """Steps between the halvings."""
    warm_up: Share = 0.02
    """The share of the steps in which rates rise to their full values."""
    loss: Literal["l1", "rms"] = "l1"
    """The loss of the image: mean absolute error, or root mean square."""
    transfer: Real = 0.0
    """Weight of the structured knowledge transfer loss of PAMS."""
    calibration: Real = 0.0
    """Weight of the calibration loss of FQSR. Its paper has 0.3."""
    average: Share = 0.999
    """Decay of the running average of all that learns. The average is what training returns."""
    clip: Real = 3.0
    """Gradients longer than this multiple of their usual norm are clipped to it."""
    every: Count = 100
    """Steps between validations, each with a checkpoint."""
