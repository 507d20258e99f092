"""The figures of a calibration, for the summary of a run."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from srptq_plugin.planning.grid_cost import GridCost
from srptq_plugin.planning.overflow_cost import OverflowCost
from srptq_plugin.quantization.grid import Bounds


@dataclass
class Figures:
    """What a calibration measured on its way."""

    rotations: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    """The matrices of the rotated streams, by the first convolution that writes each."""
    rotated: float | None = None
    """Rounding noise that rotated streams are expected to save, in dB. None if there are none."""
    left_float: float | None = None
    """Rounding noise that operations left float are expected to save, in dB. None if there are none."""
    equalized: float | None = None
    """Rounding noise that equalizing is expected to save, in dB. None if the recipe does not equalize."""
    reconstruction: Mapping[str, float] = field(default_factory=dict[str, float])
    """The figures of the reconstruction."""
    grid_costs: Mapping[str, GridCost] = field(default_factory=dict[str, GridCost])
    overflow: OverflowCost | None = None
    rounding: float | None = None
    """Noise that compensated rounding saved, in dB. None if the recipe rounds to nearest."""
    observed: Mapping[str, Bounds] = field(default_factory=dict[str, Bounds])
    """The bounds of each group before tuning and projection."""
    tuned: Mapping[str, Bounds] = field(default_factory=dict[str, Bounds])
    """The bounds of each group after tuning."""

    def at(self, group: str) -> tuple[GridCost | None, Bounds | None, Bounds | None]:
        """Return the grid's cost, the observed bounds and the tuned bounds of a group, each None if there is none."""
        return self.grid_costs.get(group), self.observed.get(group), self.tuned.get(group)
