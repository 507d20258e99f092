"""The state of a calibration after each of its phases: for a checkpoint, and for other processes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from srptq_plugin.calibration.figures import Figures
from srptq_plugin.calibration.inputs import Inputs
from srptq_plugin.errors import SrptqError
from srptq_plugin.graph.rules import Rules
from srptq_plugin.planning.grid_cost import GridCost
from srptq_plugin.planning.overflow_cost import OverflowCost
from srptq_plugin.planning.prepared_graph import PreparedGraph
from srptq_plugin.quantization.grid import Bounds
from srptq_plugin.quantization.observer import Observer
from srptq_plugin.quantization.quantizer import Mode
from srptq_plugin.recipes.schema import Override
from srptq_plugin.runs.summary import collect_versions
from srptq_plugin.utils.checkpoint import digest, tensor_bytes

Phase = Literal["prepare", "observe", "reconstruct", "round"]
PHASES: tuple[Phase, ...] = ("prepare", "observe", "reconstruct", "round")
"""The phases in their order. Each state holds what all phases until then have changed."""

NUMERIC = ("srptq-plugin", "torch", "numpy")
"""Packages on whose versions a calibration depends."""


@dataclass
class CalibrationState:
    """What a calibration has reached.

    Attributes:
        phase: The last phase that is done.
        figures: What was measured until then.
        overrides: The overrides of the recipe, with the operations that `float_above` leaves float. None if unchanged.
        program: The tensors of the float network with rotated and scaled channels. Empty if they are as they were.
        module: The tensors of the prepared graph.
        offers: The bounds that the observer of a group offers to choose from.
        random: The state of torch's random numbers.
        seconds: The seconds of each phase.
    """

    phase: Phase
    figures: Figures
    overrides: list[dict[str, Any]] | None = None
    program: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    module: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    offers: dict[str, list[Bounds]] = field(default_factory=dict[str, list[Bounds]])
    random: Tensor = field(default_factory=torch.get_rng_state)
    seconds: dict[str, float] = field(default_factory=dict[str, float])

    def reaches(self, phase: Phase) -> bool:
        """Tell whether a phase is done."""
        return PHASES.index(phase) <= PHASES.index(self.phase)

    def restore_inputs(self, inputs: Inputs, program: ExportedProgram) -> Inputs:
        """Scale a traced network as it was scaled, and return the inputs with the recipe's overrides."""
        for name, tensor in program.state_dict.items():
            if name in self.program:
                tensor.data.copy_(self.program[name])
        if self.overrides is None:
            return inputs
        changes = {"float_above": None, "overrides": tuple(map(Override.model_validate, self.overrides))}
        return replace(inputs, bound=replace(inputs.bound, recipe=inputs.recipe.model_copy(update=changes)))

    def restore_graph(self, prepared: PreparedGraph, device: torch.device) -> None:
        """Set every tensor of a prepared graph on a device. Its quantizers are then as after observing."""
        prepared.module.load_state_dict(self.module)
        prepared.set_mode(Mode.QUANTIZE)
        for site in prepared.plan.weights:
            quantizer = prepared.quantizers[site.group]
            if quantizer.grid.pair_limit is not None:
                quantizer.refresh(prepared.parameter(site))
        for group, observed in self.figures.observed.items():
            quantizer = prepared.quantizers[group]
            bounds = Bounds(observed.lower.to(device), observed.upper.to(device))
            quantizer.observed = bounds
            quantizer.observer = RestoredObserver(bounds, self.offers.get(group, []))
        torch.set_rng_state(self.random)


CLASSES = (CalibrationState, Figures, Bounds, GridCost, OverflowCost)
"""The classes of records in a state."""


@dataclass(frozen=True)
class RestoredObserver:
    """An observer whose batches are gone: it knows what it chose from them and what else it offers."""

    chosen: Bounds
    offered: Sequence[Bounds]

    def update(self, values: Tensor) -> None:  # noqa: ARG002 - an observer's signature
        """Refuse a batch."""
        raise SrptqError("a resumed calibration has observed already; start it from the beginning")

    def merge(self, other: Observer) -> None:  # noqa: ARG002
        """Refuse the batches of another observer."""
        self.update(self.chosen.lower)

    def bounds(self) -> Bounds:
        """Return the chosen bounds."""
        return self.chosen

    def offers(self) -> Sequence[Bounds]:
        """Return the bounds to choose from."""
        return self.offered


def offers_of(prepared: PreparedGraph) -> dict[str, list[Bounds]]:
    """Return the bounds that each observer offers, if it offers several."""
    listing = {group: getattr(q.observer, "offers", None) for group, q in prepared.of_role("activation").items()}
    return {
        group: list(offers()) for group, offers in listing.items() if offers and not prepared.quantizers[group].fixed
    }


def copy_tensors(module: nn.Module | ExportedProgram) -> dict[str, Tensor]:
    """Return copies of all tensors of a module or a program, by name."""
    tensors = module.state_dict if isinstance(module, ExportedProgram) else module.state_dict()
    return {name: tensor.detach().clone() for name, tensor in tensors.items() if isinstance(tensor, Tensor)}


def origins_of(inputs: Inputs, program: ExportedProgram) -> dict[str, str]:
    """Return a digest of each input of a calibration, by the name that a message gives it.

    The options of the exported file are not among them, except for the rules that they change.
    """
    bound, record = inputs.bound, inputs.loaded.record
    versions = collect_versions(bound)
    # Versions of other toolkits and of what only writes files may change.
    numeric = {*NUMERIC, bound.recipe.toolkit, *(plugin.distribution for plugin in bound.registry.plugins())}
    recipe = bound.recipe.model_copy(update={"export": {}}).to_yaml()
    return {
        "recipe": digest([recipe.encode(), *_rules(bound.rules)]),
        "network": digest([repr(record).encode(), str(program.graph).encode(), *tensor_bytes(program.state_dict)]),
        "set of images": digest(tensor_bytes({"patches": inputs.patches})),
        **{f"version of {name}": versions[name] for name in sorted(numeric & versions.keys())},
    }


def _rules(rules: Rules) -> Iterator[bytes]:
    for rule in fields(rules):
        value = getattr(rules, rule.name)
        # Sets of texts have another order in each process.
        parts = sorted(map(str, value)) if isinstance(value, frozenset) else value
        parts = list(map(str, value)) if isinstance(value, tuple) else parts
        yield f"{rule.name}={parts}".encode()
