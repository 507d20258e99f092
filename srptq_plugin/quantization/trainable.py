"""The contract of a fake-quantizer that trains, and the callbacks of a training with nothing in them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor, nn

from srptq_plugin.quantization.grid import Bounds, QParams


class TrainableQuantizer(Protocol):
    """The contract between a fake-quantizer and the code that calibrates, trains and exports it.

    `BoundedFakeQuantize` implements all of it. A plugin subclasses that, and overrides the methods in which its
    quantizer differs. Its class attributes `learns`, `dynamic`, `gradient` and `options_type` say what kind it is.

    A run calls the methods in this order:

    1. Calibration: `forward` shows each batch to the observer. `finish_observing` calls `set_bounds`.
    2. Start of a training: `on_train_begin` once for each class, then `extra_parameters`.
    3. Each step: `on_progress`, `forward` with `quantize_tensor`, `auxiliary_loss`, and one step of Adam.
    4. Reconstruction (PaC): `freeze` and `unfreeze` as weights and activations take turns. No callback of a training.
    5. Export: `refresh` for weights, `qparams`, and for a dynamic quantizer `state`.
    6. Simulation of a run folder: `load_state_dict(state)` or `set_bounds`, then `freeze`.
    7. Start from a run folder (`initialize`): `set_bounds`, then `restore(state)`.
    """

    @property
    def bounds(self) -> Bounds:
        """The current bounds, differentiable in the parameters that learn.

        Override it to constrain bounds. `project(bounds)` is exported, so training sees what a file will hold.
        Reading it must not change the quantizer.
        """
        ...

    def set_bounds(self, bounds: Bounds) -> None:
        """Start from these bounds.

        Called by `finish_observing` with the observer's bounds, by `initialize` with a run's, and by reconstructions.
        A run that is resumed sets exported bounds, so `set_bounds(qparams().bounds)` must not change `qparams()`.

        Args:
            bounds: one pair, or one pair for each channel, as the grid's `channel_axis` says.
        """
        ...

    def finish_observing(self) -> None:
        """Set the bounds from the observer. Do nothing if no batch was observed since they were last set.

        Called by every `set_mode`, and before an export.
        """
        ...

    def qparams(self) -> QParams:
        """Return scale and zero point on the target's grid, with gradients to the bounds.

        Called in every forward pass, and by everything that writes a file.
        """
        ...

    def refresh(self, weight: Tensor) -> None:
        """Take note of a weight that has changed, if its values decide about its scale.

        Called for quantizers of weights only: before each export, and in each forward pass if kernels could overflow.
        """
        ...

    def quantize_tensor(self, values: Tensor) -> Tensor:
        """Return the values fake-quantized, of the same shape, with gradients to the values and to what learns.

        Called by `forward` in mode QUANTIZE. Override it for an arithmetic other than `fake_quantize`.
        """
        ...

    def freeze(self) -> None:
        """Cache the parameters at the next forward pass. For a constant tensor, cache the output.

        Called when this quantizer does not learn: in the other turn of a reconstruction, and in a simulation.
        Override it with nothing if the output depends on more than parameters that are at rest.
        """
        ...

    def unfreeze(self) -> None:
        """Drop what `freeze` cached. Called when this quantizer learns again, and by every `set_mode`."""
        ...

    @classmethod
    def on_train_begin(cls, members: Sequence[Any], run_float: Callable[[], object]) -> None:
        """Prepare all quantizers of this class in a network for a training, together.

        Called once, also before a training is resumed, when all of them have bounds and no optimizer exists yet.

        Args:
            members: the quantizers of exactly this class.
            run_float: runs the float network on some training images. Each quantizer is called with its tensor and
                passes it on, so a forward hook can collect statistics.
        """
        ...

    def extra_parameters(self) -> Iterator[tuple[nn.Parameter, float]]:
        """Yield each parameter to train besides the bounds, with Adam's learning rate for it.

        Called when the optimizer is built and several times later: yield the same parameters in the same order. The
        parameters of a fixed quantizer are not trained. Leave buffers out: a checkpoint keeps them all.
        """
        ...

    def on_progress(self, fraction: float) -> None:
        """Take note of how far a training is. Called before the forward pass of each step.

        Args:
            fraction: the share of all steps that are done, in [0, 1).
        """
        ...

    def auxiliary_loss(self) -> Tensor | None:
        """Return a scalar to add to the loss of this step, or None. Called once after the forward pass of each step."""
        ...

    def state(self) -> dict[str, Tensor]:
        """Return copies of the tensors that a table stores for a dynamic quantizer, named as in `state_dict()`.

        Called at export, for quantizers of activations that are `dynamic`. A simulation loads them with
        `load_state_dict` into a quantizer that was only constructed: override `_load_from_state_dict` if it has to
        build submodules first.
        """
        ...

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Load what `state()` returned, and ignore names that this quantizer does not have.

        Called by `initialize` after `set_bounds`. Only a dynamic quantizer does anything here.
        """
        ...


class TrainingCallbacks:
    """The callbacks of a training with nothing in them. `TrainableQuantizer` says when each is called."""

    @classmethod
    def on_train_begin(cls, members: Sequence[Any], run_float: Callable[[], object]) -> None:
        """Prepare all quantizers of this class in a network for a training, together."""

    def extra_parameters(self) -> Iterator[tuple[nn.Parameter, float]]:
        """Yield each parameter to train besides the bounds, with Adam's learning rate for it."""
        yield from ()

    def on_progress(self, fraction: float) -> None:
        """Take note of the share of a training that is done, in [0, 1)."""

    def auxiliary_loss(self) -> Tensor | None:
        """Return a loss to add for the last forward pass, or None."""
