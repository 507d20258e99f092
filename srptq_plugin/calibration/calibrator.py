"""Calibration of a network: rotate, plan, equalize, prepare, observe, reconstruct, round."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch.export import ExportedProgram

from srptq_plugin.calibration.calibration_checkpoint import CalibrationCheckpoint
from srptq_plugin.calibration.calibration_state import CalibrationState, Phase, copy_tensors, offers_of
from srptq_plugin.calibration.costly import leave_costly_float
from srptq_plugin.calibration.equalization.equalize import equalize_network
from srptq_plugin.calibration.equalization.rounding_noise import RoundingNoise
from srptq_plugin.calibration.even_areas import hold_even_areas
from srptq_plugin.calibration.figures import Figures
from srptq_plugin.calibration.inputs import Inputs
from srptq_plugin.calibration.observation import observe, own_share
from srptq_plugin.calibration.rotation.rotate import rotate_streams
from srptq_plugin.deploy.quant_table import QuantTable
from srptq_plugin.errors import SrptqError, first_line
from srptq_plugin.graph.export import graph_of
from srptq_plugin.graph.network import Network
from srptq_plugin.planning.grid_cost import grid_costs, observed_bounds, tuned_bounds
from srptq_plugin.planning.overflow_cost import overflow_cost
from srptq_plugin.planning.prepared_graph import PreparedGraph
from srptq_plugin.plugins.bound_recipe import takes_checkpoint
from srptq_plugin.reconstruction.compensation import compensate
from srptq_plugin.utils.checkpoint import Checkpoint
from srptq_plugin.utils.distributed import LostProcessError, from_first, is_first, world_size
from srptq_plugin.utils.progress import Progress, quiet
from srptq_plugin.utils.timing import Clock

logger = logging.getLogger(__name__)
PROBED = 16
"""Patches on which the cost of a target's grid and the noise of each channel are measured."""


@dataclass
class Calibrator:
    """Calibrates one network, phase by phase. Several processes share the work. `figures` are of the last `run()`."""

    inputs: Inputs
    progress: Progress = quiet
    clock: Clock = field(default_factory=Clock)
    figures: Figures = field(default_factory=Figures)

    def run(self) -> tuple[ExportedProgram, QuantTable]:
        """Return the exported float network and the quantization parameters of every site."""
        program = self.trace()
        return program, self.calibrate(program)

    def trace(self) -> ExportedProgram:
        """Trace the network for any size, or else for the size of the file to write."""
        self.progress("tracing the network", 0, 0)
        with self.clock("trace"):
            return self._traced()

    def calibrate(
        self, program: ExportedProgram, checkpoint: CalibrationCheckpoint | None = None, *, resume: bool = False
    ) -> QuantTable:
        """Return the quantization parameters of every site of a traced network, whose channels are scaled.

        Args:
            program: The traced network.
            checkpoint: Where the state after each phase is kept.
            resume: Whether to go on from the state that is kept there.
        """
        torch.manual_seed(self.inputs.recipe.calibration.seed)
        state = checkpoint.load() if checkpoint and resume else self._begin(program, checkpoint)
        try:
            prepared = self._restored(program, state)
            for phase, work in self._phases(checkpoint):
                if not state.reaches(phase):
                    work(prepared)
                    state = self._finish(phase, prepared, state, checkpoint)
        except SrptqError as error:
            # A network or images that cannot be observed are no better when resumed.
            if checkpoint and state.phase == "prepare" and not isinstance(error, LostProcessError):
                checkpoint.remove()
            raise
        prepared.to(torch.device("cpu"))
        return replace(QuantTable.of(prepared), rotations=self.figures.rotations)

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

    def _begin(self, program: ExportedProgram, checkpoint: CalibrationCheckpoint | None) -> CalibrationState:
        """Rotate and scale channels and choose what stays float, in the first process. Return the state in all."""
        state = from_first(lambda: self._prepare(program))
        if checkpoint:
            checkpoint.begin(state)
        return state

    def _prepare(self, program: ExportedProgram) -> CalibrationState:
        network, before = Network(graph_of(program)), self.inputs.bound
        if self.inputs.recipe.rotate:
            self._rotate(network)
        noise = self._leave_costly_float(network)
        if self.inputs.recipe.equalize:
            self._equalize(noise or self._measured(network))
        chosen = self.inputs.bound.recipe.overrides if self.inputs.bound is not before else None
        return CalibrationState(
            "prepare",
            self.figures,
            None if chosen is None else [override.model_dump() for override in chosen],
            copy_tensors(program) if self.inputs.recipe.rotate or self.inputs.recipe.equalize else {},
            seconds=self.clock.seconds,
        )

    def _restored(self, program: ExportedProgram, state: CalibrationState) -> PreparedGraph:
        """Return the graph with quantizers as a state has it."""
        self.figures, self.clock.seconds = state.figures, {**state.seconds, **self.clock.seconds}
        self.inputs = state.restore_inputs(self.inputs, program)
        bound = self.inputs.bound
        plan = bound.plan(Network(graph_of(program)), self.inputs.loaded.record.input_range)
        prepared = bound.toolkit.realize(program, plan).to(self.inputs.device)
        if state.reaches("observe"):
            state.restore_graph(prepared, self.inputs.device)
        return prepared

    def _phases(
        self, checkpoint: CalibrationCheckpoint | None
    ) -> Sequence[tuple[Phase, Callable[[PreparedGraph], None]]]:
        own = checkpoint.reconstruction if checkpoint else None
        return ("observe", self._observe), ("reconstruct", partial(self._tune, own)), ("round", self._round)

    def _finish(
        self, phase: Phase, prepared: PreparedGraph, state: CalibrationState, checkpoint: CalibrationCheckpoint | None
    ) -> CalibrationState:
        """Keep the state after a phase. Give the other processes the state of the first."""
        if checkpoint is None and world_size() == 1:
            return replace(state, phase=phase)
        offers = offers_of(prepared) if phase == "observe" and is_first() else state.offers
        reached = replace(
            state,
            phase=phase,
            figures=self.figures,
            module=copy_tensors(prepared.module) if is_first() else {},
            offers=offers,
            random=torch.get_rng_state(),
            seconds=self.clock.seconds,
        )
        if checkpoint:
            checkpoint.save(reached)
        shared = from_first(lambda: reached)
        if not is_first():
            self.figures = shared.figures
            shared.restore_graph(prepared, self.inputs.device)
        return shared

    def _rotate(self, network: Network) -> None:
        self.progress("rotating streams", 0, 0)
        with self.clock("rotate"):
            inputs, input_range = self.inputs, self.inputs.loaded.record.input_range
            plan, seed = inputs.bound.plan(network, input_range), inputs.recipe.calibration.seed
            self.figures.rotations, fall = rotate_streams(network, plan, inputs.patches[:PROBED], input_range, seed)
            self.figures.rotated = fall if self.figures.rotations else None

    def _leave_costly_float(self, network: Network) -> RoundingNoise | None:
        """Leave costly operations float, and return the noise of the plan if there are none."""
        share = self.inputs.recipe.float_above
        if share is None:
            return None
        self.progress("measuring what rounding costs", 0, 0)
        with self.clock("choose"):
            noise, input_range = self._measured(network), self.inputs.loaded.record.input_range
            bound, fall = leave_costly_float(noise, self.inputs.bound, share, input_range)
            self.inputs, self.figures.left_float = replace(self.inputs, bound=bound), fall or None
            return None if fall else noise

    def _measured(self, network: Network) -> RoundingNoise:
        plan = self.inputs.bound.plan(network, self.inputs.loaded.record.input_range)
        return RoundingNoise(network, plan, self.inputs.patches[:PROBED], self.inputs.recipe.calibration.seed)

    def _equalize(self, noise: RoundingNoise) -> None:
        self.progress("equalizing channels", 0, 0)
        with self.clock("equalize"):
            self.figures.equalized = equalize_network(noise)

    def _observe(self, prepared: PreparedGraph) -> None:
        shuffled = self.inputs.shuffled
        with self.clock("observe"):
            observe(prepared, shuffled.split(self.inputs.recipe.calibration.batch), self.progress)
            if not is_first():
                return
            if self.inputs.recipe.calibration.even_areas:
                hold_even_areas(prepared, self.inputs.loaded.record.input_range, shuffled[0])
            self.figures.observed = observed_bounds(prepared)
            self.figures.overflow = overflow_cost(prepared, shuffled[:PROBED])

    def _tune(self, checkpoint: Checkpoint | None, prepared: PreparedGraph) -> None:
        tune, patches = self.inputs.bound.tune, self.inputs.patches
        with self.clock("reconstruct"):
            if tune is not None:
                own: dict[str, Any] = {"checkpoint": checkpoint} if checkpoint and takes_checkpoint(tune) else {}
                images, batch = own_share(patches, tune.keywords.get("batch"))
                own |= {} if batch is None else {"batch": batch}
                figures = tune(prepared, images.to(self.inputs.device), progress=self.progress, **own)
                self.figures.reconstruction = dict(figures)
        if is_first():
            self.figures.tuned = tuned_bounds(prepared) if self.inputs.recipe.reconstruction else {}
            probed = self.inputs.shuffled[:PROBED]
            self.figures.grid_costs = grid_costs(prepared, self.figures.observed, probed)

    def _round(self, prepared: PreparedGraph) -> None:
        if is_first() and self.inputs.recipe.weights.rounding == "compensated":
            with self.clock("round"):
                self.figures.rounding = compensate(prepared, self.inputs.shuffled[:PROBED], self.progress)
