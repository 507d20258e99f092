"""The state of PaC: the start of its tuning, and how far the tuning is."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from srptq_plugin.planning.prepared_graph import PreparedGraph
from srptq_plugin.reconstruction.learning import Learning, learned_bounds
from srptq_plugin.utils.checkpoint import Checkpoint, State

SECONDS = 10.0
"""The least time between two saves."""
SHARE = 0.02
"""The largest share of the time that saving takes."""


@dataclass(frozen=True)
class Begun:
    """A tuning that begins or goes on.

    Attributes:
        observed: The loss on the observer's bounds.
        before: The loss at the start of the tuning.
        bounds: The learnable bounds at the start.
        biases: The biases at the start.
        steps: The steps that are done.
        learned: The parameters that learn, after these steps. Empty at the start.
        optimizers: The states of the optimizers. Empty at the start.
    """

    observed: float
    before: float
    bounds: Sequence[Tensor]
    biases: Sequence[Tensor]
    steps: int = 0
    learned: Sequence[Tensor] = ()
    optimizers: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @classmethod
    def of(cls, prepared: PreparedGraph, observed: float, before: float) -> "Begun":
        """Return the start of a tuning."""
        return cls(observed, before, _copies(learned_bounds(prepared)), _copies([*prepared.biases.values()]))

    def restore_start(self, prepared: PreparedGraph) -> None:
        """Set bounds and biases to the start. The rates of learning follow from them."""
        _put(learned_bounds(prepared), self.bounds)
        _put([*prepared.biases.values()], self.biases)

    def restore_progress(self, learning: Learning) -> None:
        """Set parameters and optimizers to the steps that are done."""
        if self.steps:
            _put(learning.learned, self.learned)
            learning.restore(self.optimizers)


class Saving:
    """Saves the state of a tuning from time to time."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self._next = time.monotonic() + SECONDS

    def begun(self) -> Begun | None:
        """Return the saved state, or None if there is none."""
        return self._checkpoint.restore(_begun_of) if self._checkpoint.exists else None

    def save_in_time(self, begun: Begun, learning: Learning, steps: int) -> None:
        """Save the state after some steps, unless the last save was a moment ago."""
        start = time.monotonic()
        if start < self._next:
            return
        learned = _copies(learning.learned)
        progress = {"steps": steps, "learned": learned, "optimizers": learning.state()}
        self._checkpoint.save({**vars(begun), **progress})
        end = time.monotonic()
        self._next = end + max(SECONDS, (end - start) / SHARE)


def _begun_of(state: State) -> Begun:
    names = Begun.__dataclass_fields__
    return Begun(**{name: state[name] for name in names})


def _copies(parameters: Sequence[nn.Parameter]) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in parameters]


def _put(parameters: Sequence[nn.Parameter], values: Sequence[Tensor]) -> None:
    with torch.no_grad():
        for parameter, value in zip(parameters, values, strict=True):
            parameter.data.copy_(value)
