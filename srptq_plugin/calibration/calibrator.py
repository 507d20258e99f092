"""Calibration of a network: rotate, plan, equalize, prepare, observe, reconstruct, round."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.export import ExportedProgram

from srptq_plugin.calibration.costly import leave_costly_float
from srptq_plugin.calibration.equalization.equalize import equalize_network
from srptq_plugin.calibration.equalization.rounding_noise import RoundingNoise
from srptq_plugin.calibration.even_areas import hold_even_areas
from srptq_plugin.calibration.inputs import Inputs
from srptq_plugin.calibration.rotation.rotate import rotate_streams
from srptq_plugin.deploy.quant_table import QuantTable
from srptq_plugin.errors import SrptqError, first_line
from srptq_plugin.graph.export import graph_of
from srptq_plugin.graph.network import Network
from srptq_plugin.planning.grid_cost import GridCost, grid_costs, observed_bounds, tuned_bounds
from srptq_plugin.planning.overflow_cost import OverflowCost, overflow_cost
from srptq_plugin.planning.prepared_graph import PreparedGraph
from srptq_plugin.quantization.grid import Bounds
from srptq_plugin.reconstruction.compensation import compensate
from srptq_plugin.utils.progress import Progress, quiet
from srptq_plugin.utils.timing import Clock

logger = logging.getLogger(__name__)
PROBED = 16
"""Patches on which the cost of a target's grid and the noise of each channel are measured."""


@dataclass
class Calibrator:
    """Calibrates one network. Its fields below `clock` are the figures of the last `run()`."""

    inputs: Inputs
    progress: Progress = quiet
    clock: Clock = field(default_factory=Clock)
    rotated: float | None = None
    """Rounding noise that rotated streams are expected to save, in dB. None if there are none."""
    left_float: float | None = None
    """Rounding noise that operations left float are expected to save, in dB. None if there are none."""
    equalized: float | None = None
    """Rounding noise that equalizing is expected to save, in dB. None if the recipe does not equalize."""
    rotations: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    """The matrices of the rotated streams, by the first convolution that writes each."""
    figures: Mapping[str, float] = field(default_factory=dict[str, float])
    """The figures of the reconstruction."""
    grid_costs: Mapping[str, GridCost] = field(default_factory=dict[str, GridCost])
    overflow: OverflowCost | None = None
    rounding: float | None = None
    """Noise that compensated rounding saved, in dB. None if the recipe rounds to nearest."""
    observed: Mapping[str, Bounds] = field(default_factory=dict[str, Bounds])
    """The bounds of each group before tuning and projection."""
    tuned: Mapping[str, Bounds] = field(default_factory=dict[str, Bounds])
    """The bounds of each group after tuning."""

    def run(self) -> tuple[ExportedProgram, QuantTable]:
        """Return the exported float network and the quantization parameters of every site."""
        program = self.trace()
        return program, self.calibrate(program)

    def trace(self) -> ExportedProgram:
        """Trace the network for any size, or else for the size of the file to write."""
        self.progress("tracing the network", 0, 0)
        with self.clock("trace"):
            return self._traced()

    def calibrate(self, program: ExportedProgram) -> QuantTable:
        """Return the quantization parameters of every site of a traced network, whose channels are scaled."""
        torch.manual_seed(self.inputs.recipe.calibration.seed)
        prepared = self._prepared(program)
        self._observe_and_tune(prepared)
        prepared.to(torch.device("cpu"))
        return replace(QuantTable.of(prepared), rotations=self.rotations)

    def _traced(self) -> ExportedProgram:
        try:
            return self.inputs.program()
        except SrptqError as error:
            fixed = self.inputs.at_size()
            if fixed is None:
                raise
            self.inputs = fixed
            logger.info("traced and calibrated at the input size alone: %s", first_line(error))
            self.progress("tracing the network for its input size alone", 0, 0)
            return fixed.program()

    def at(self, group: str) -> tuple[GridCost | None, Bounds | None, Bounds | None]:
        """Return the grid's cost, the observed bounds and the tuned bounds of a group, each None if there is none."""
        return self.grid_costs.get(group), self.observed.get(group), self.tuned.get(group)

    def _prepared(self, program: ExportedProgram) -> PreparedGraph:
        network = Network(graph_of(program))
        if self.inputs.recipe.rotate:
            self._rotate(network)
        noise = self._leave_costly_float(network)
        if self.inputs.recipe.equalize:
            self._equalize(noise or self._measured(network))
        bound = self.inputs.bound
        plan = bound.plan(network, self.inputs.loaded.record.input_range)
        return bound.toolkit.realize(program, plan).to(self.inputs.device)

    def _rotate(self, network: Network) -> None:
        self.progress("rotating streams", 0, 0)
        with self.clock("rotate"):
            inputs, input_range = self.inputs, self.inputs.loaded.record.input_range
            plan, seed = inputs.bound.plan(network, input_range), inputs.recipe.calibration.seed
            self.rotations, fall = rotate_streams(network, plan, inputs.patches[:PROBED], input_range, seed)
            self.rotated = fall if self.rotations else None

    def _leave_costly_float(self, network: Network) -> RoundingNoise | None:
        """Leave costly operations float, and return the noise of the plan if there are none."""
        share = self.inputs.recipe.float_above
        if share is None:
            return None
        self.progress("measuring what rounding costs", 0, 0)
        with self.clock("choose"):
            noise, input_range = self._measured(network), self.inputs.loaded.record.input_range
            bound, fall = leave_costly_float(noise, self.inputs.bound, share, input_range)
            self.inputs, self.left_float = replace(self.inputs, bound=bound), fall or None
            return None if fall else noise

    def _measured(self, network: Network) -> RoundingNoise:
        plan = self.inputs.bound.plan(network, self.inputs.loaded.record.input_range)
        return RoundingNoise(network, plan, self.inputs.patches[:PROBED], self.inputs.recipe.calibration.seed)

    def _equalize(self, noise: RoundingNoise) -> None:
        self.progress("equalizing channels", 0, 0)
        with self.clock("equalize"):
            self.equalized = equalize_network(noise)

    def _observe_and_tune(self, prepared: PreparedGraph) -> None:
        shuffled = self.inputs.shuffled
        with self.clock("observe"):
            prepared.observe(shuffled.split(self.inputs.recipe.calibration.batch), self.progress)
            if self.inputs.recipe.calibration.even_areas:
                hold_even_areas(prepared, self.inputs.loaded.record.input_range, shuffled[0])
            self.observed = observed_bounds(prepared)
            self.overflow = overflow_cost(prepared, shuffled[:PROBED])
        with self.clock("reconstruct"):
            self.figures = self._reconstruct(prepared, self.inputs.patches.to(self.inputs.device))
        self.tuned = tuned_bounds(prepared) if self.inputs.recipe.reconstruction else {}
        self.grid_costs = grid_costs(prepared, self.observed, shuffled[:PROBED])
        if self.inputs.recipe.weights.rounding == "compensated":
            with self.clock("round"):
                self.rounding = compensate(prepared, shuffled[:PROBED], self.progress)

    def _reconstruct(self, prepared: PreparedGraph, patches: Tensor) -> Mapping[str, float]:
        tune = self.inputs.bound.tune
        return {} if tune is None else tune(prepared, patches, progress=self.progress)
