"""The options of PaC. They are apart from pac.py because they are listed without importing torch."""

from typing import Literal

from srptq_plugin.utils.field_types import Count, Flag, Real
from srptq_plugin.utils.options import Options

Turn = tuple[Literal["weight", "activation"], ...]
BOTH: Turn = ("weight", "activation")


class PacOptions(Options):
    """PaC (pixel-aware calibration), which tunes bounds against the float network.

    The paper's own are `epochs: 10`, `batch: 2`, `schedule: alternating`, `rates: absolute`, `weight_rate: 0.001`,
    `activation_rate: 0.05`, `start: observed`, `output_loss: l1`, `region_weight: 0`, `recolor: false`,
    `feature_weight: 5` and `gradient: pact`, for images from 0 to 255. Equation (8) as printed is the `feature_loss`
    `literal`. The text beside it, a mean square error, is `sum`, but for the division by the number of values.
    """

    epochs: Count = 10
    """How often every patch is seen."""
    batch: Count = 2
    """Patches a step."""
    schedule: Literal["alternating", "joint"] = "joint"
    """Whether weights' and activations' bounds learn by turns, an epoch each, or together."""
    rates: Literal["relative", "absolute"] = "relative"
    """Whether rates are shares of a site's range, or steps in its own units."""
    weight_rate: Real = 1e-3
    """How fast bounds of weights learn."""
    activation_rate: Real = 1e-3
    """How fast bounds of activations learn."""
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

    def turn(self, epoch: int, roles: Turn = BOTH) -> Turn:
        """Return whose bounds learn in an epoch, of the roles that are quantized."""
        return roles if self.schedule == "joint" else (roles[epoch % len(roles)],)
