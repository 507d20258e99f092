"""The options of PaC. They are apart from pac.py, so that listing plugins does not import it."""

from typing import Literal

from srptq_plugin.utils.field_types import Count, Flag, Real
from srptq_plugin.utils.options import Options

Turn = tuple[Literal["weight", "activation"], ...]
BOTH: Turn = ("weight", "activation")


class PacOptions(Options):
    """PaC (pixel-aware calibration) tunes bounds until the quantized network reproduces the float network.

    The paper's own are `epochs: 10`, `batch: 2`, `schedule: alternating`, `rates: absolute`, `weight_rate: 0.001`,
    `activation_rate: 0.05`, `start: observed`, `output_loss: l1`, `region_weight: 0`, `recolor: false`,
    `feature_weight: 5`, `gradient: pact` and `keep: last`: the recipes `paper-...-literal`. `feature_loss: literal` is
    equation (8) as printed. The text next to it describes a mean square error: that is `sum`, up to a division by the
    number of values.
    """

    epochs: Count = 10
    """Passes over all patches."""
    batch: Count = 2
    """Patches in a step."""
    schedule: Literal["alternating", "joint"] = "joint"
    """`alternating` tunes bounds of weights and of activations in turns of an epoch, `joint` tunes both together."""
    rates: Literal["relative", "absolute"] = "relative"
    """`relative` rates are shares of a site's range. `absolute` ones are a weight's units, and 8-bit image levels."""
    weight_rate: Real = 1e-3
    """Learning rate of the bounds of weights."""
    activation_rate: Real = 1e-3
    """Learning rate of the bounds of activations."""
    weights: Literal["fixed", "rounding", "free"] = "fixed"
    """How weights learn: not at all, which of two neighboring levels to take, or freely, with the biases."""
    value_rate: Real = 0.02
    """Learning rate of weights and biases, relative to the scale of the weight."""
    start: Literal["observed", "image"] = "observed"
    """Tuning starts from the observer's bounds, or from its candidates that change the image least."""
    bias_correction: Flag = False
    """`true` first corrects biases until every channel has the mean that it has in the float network."""
    feature_weight: Real = 5.0
    """Weight of the feature loss, which compares the outputs of the blocks."""
    blocks: Literal["equal", "sensitivity"] = "equal"
    """All blocks count the same, or by how much their noise changes the image."""
    output_weight: Real = 1.0
    """Weight of the output loss, which compares the images."""
    output_loss: Literal["l1", "rms"] = "rms"
    """The output loss: mean absolute error, or root mean square."""
    region_weight: Real = 1.0
    """Weight of the mean errors of regions of 16 x 16 pixels, relative to single pixels."""
    recolor: Flag = True
    """`true` gives every second patch other colors."""
    feature_loss: Literal["sum", "literal"] = "sum"
    """The distance of feature maps on the unit sphere: squared, or over the number of values as in equation (8)."""
    gradient: Literal["full", "pact"] = "full"
    """Bounds learn from all values, or from clipped values only."""
    keep: Literal["better", "last"] = "better"
    """Tuned bounds are kept if the loss fell, or in any case."""

    def turn(self, epoch: int, roles: Turn = BOTH) -> Turn:
        """Return whose bounds learn in an epoch, of the roles that are quantized."""
        return roles if self.schedule == "joint" else (roles[epoch % len(roles)],)
