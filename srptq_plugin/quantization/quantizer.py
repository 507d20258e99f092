"""The bounded fake-quantizer: two learnable bounds, projected on the target's grid in every forward pass."""

from collections.abc import Mapping
from enum import Enum
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from srptq_plugin.errors import SrptqError
from srptq_plugin.quantization.fake_quantize import Gradient, fake_quantize, fake_quantize_pact, finite
from srptq_plugin.quantization.grid import Bounds, IntGrid, QParams, project
from srptq_plugin.quantization.observer import Observer
from srptq_plugin.quantization.saturation import safe
from srptq_plugin.quantization.trainable import TrainingCallbacks
from srptq_plugin.utils.options import Options


class Mode(Enum):
    """The job of a fake-quantizer: pass its tensor on, observe it and pass it on, or quantize it."""

    OFF = "off"
    OBSERVE = "observe"
    QUANTIZE = "quantize"


class BoundedFakeQuantize(TrainingCallbacks, nn.Module):
    """A fake-quantizer with two learnable bounds, `lower` and `upper`. Implements `TrainableQuantizer`.

    >>> quantizer = BoundedFakeQuantize("input", IntGrid(2), bounds=Bounds.of(-1.0, 1.0))
    >>> quantizer.set_mode(Mode.QUANTIZE)
    >>> quantizer(torch.tensor([-2.0, 0.0, 0.4])).tolist()
    [-0.6666666865348816, 0.0, 0.6666666865348816]

    Attributes:
        name: the site, for messages.
        fixed: whether the bounds stay as they are. True without an observer, and for kinds that do not learn.
        observed: the observer's bounds, before any grid. None until `finish_observing()`.
        options: the record of its options.
    """

    lower: nn.Parameter
    upper: nn.Parameter
    gradient: Gradient = "full"
    """The gradient of the bounds: "full" from all values (LSQ+), "pact" from clipped values only."""
    learns: ClassVar[bool] = True
    """Whether training may move the bounds. False fixes them, and keeps `extra_parameters` out of the optimizer."""
    dynamic: ClassVar[bool] = False
    """Whether scales are computed from each image, not from `bounds` alone. A table then stores `state()`. No integer
    runtime works like this, so only the target `paper` accepts it."""
    limits: tuple[float | None, float | None] | None = None
    """The values beyond which the tensor changes nothing. The observer sees all others clamped to them."""
    options_type: ClassVar[type[Options]] = Options
    """The record of this kind's options. A recipe sets them in `quantizer_options`."""

    def __init__(
        self,
        name: str,
        grid: IntGrid,
        observer: Observer | None = None,
        bounds: Bounds | None = None,
        *,
        constant: bool = False,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        """Construct it in mode OBSERVE.

        Args:
            name: the site, for messages.
            grid: the integers of the target.
            observer: finds the first bounds. Without one, `bounds` or a state has to be given, and nothing learns.
            bounds: the first bounds.
            constant: whether the tensor is the same in every forward pass: a weight.
            options: values for some of its options.
        """
        super().__init__()
        self.options: Any = self.options_type.parse(options or {}, "options")
        self.name, self.grid, self.observer, self.constant = name, grid, observer, constant
        self.mode = Mode.OBSERVE
        self.fixed = observer is None or not self.learns
        self.observed: Bounds | None = None
        self._pending = False
        self._weight: Tensor | None = None
        self._hold: Literal["", "parameters", "output"] = ""
        self._cache: Tensor | QParams | None = None
        # Empty until bounds are set: their shape depends on the number of channels.
        self.lower = nn.Parameter(torch.empty(0, dtype=torch.float64), requires_grad=False)
        self.upper = nn.Parameter(torch.empty(0, dtype=torch.float64), requires_grad=False)
        if bounds is not None:
            self.set_bounds(bounds)
        self.eval()

    @property
    def has_bounds(self) -> bool:
        """Whether bounds were set: given, loaded, or taken from the observer."""
        return bool(self.lower.numel())

    @property
    def has_pending(self) -> bool:
        """Whether batches were observed that `finish_observing()` has yet to turn into bounds."""
        return self._pending

    @property
    def bounds(self) -> Bounds:
        """The current bounds: set, tuned, or taken from the observer by `finish_observing()`.

        A lower bound of zero gets no gradient: runtimes fuse a ReLU only where zero is its smallest integer.

        Raises:
            SrptqError: there are no bounds, or batches were observed that they do not include yet.
        """
        if self._pending:
            raise SrptqError(
                f"site {self.name}: still observing, so bounds are not final; "
                "call finish_observing() or set_mode(Mode.QUANTIZE) first"
            )
        if not self.has_bounds:
            raise SrptqError(f"site {self.name}: no bounds yet; run calibration images through the network first")
        if self.grid.float_zero_point or not self.lower.requires_grad:
            return Bounds(self.lower, self.upper)
        return Bounds(torch.where(self.lower == 0, self.lower.detach(), self.lower), self.upper)

    def set_bounds(self, bounds: Bounds) -> None:
        """Start from these bounds, projected on the grid.

        A bound that learns has to be the one that values are clipped at: only then does its gradient fit.
        """
        self.set_learnable_bounds(self.project(bounds).bounds)

    def set_learnable_bounds(self, bounds: Bounds) -> None:
        """Store these bounds as they are, not projected, and let them learn unless the quantizer is fixed."""
        for parameter, end in ((self.lower, bounds.lower), (self.upper, bounds.upper)):
            # Bounds made from plain numbers are on the CPU, and must not pull the parameter there from an accelerator.
            device = end.device if end.device.type != "cpu" else parameter.device
            parameter.data = end.detach().to(device, copy=True)
            parameter.requires_grad_(not self.fixed)
        self._pending = False

    def finish_observing(self) -> None:
        """Set the bounds from the observer. Do nothing if no batch was observed since they were last set."""
        if self.observer is not None and self._pending:
            self.observed = self.observer.bounds()
            self.set_bounds(self.observed)

    def qparams(self) -> QParams:
        """Return the projected parameters: PaC tunes them, and every file holds them."""
        return self.project(self.bounds)

    def project(self, bounds: Bounds) -> QParams:
        """Project bounds on the grid. Raise the scale of a weight whose products could overflow."""
        projected = project(bounds, self.grid)
        return projected if self._weight is None else safe(self._weight, projected)

    def refresh(self, weight: Tensor) -> None:
        """Take note of the current weight: `project` checks its values for overflow."""
        self._weight = weight.detach()

    def state(self) -> dict[str, Tensor]:
        """Return copies of the tensors that a table stores for a dynamic quantizer, named as in `state_dict()`."""
        return {"lower": self.lower.detach().clone(), "upper": self.upper.detach().clone()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Load what `state()` returned into a dynamic quantizer. Names that it does not have are ignored."""
        if self.dynamic:
            self.load_state_dict(dict(state), strict=False)

    def set_mode(self, mode: Mode) -> None:
        """Switch the mode. Finish observing and unfreeze first."""
        self.finish_observing()
        self.unfreeze()
        self.mode = mode

    def freeze(self) -> None:
        """Cache the parameters, and for a constant tensor the output, from the next forward pass on."""
        self.unfreeze()
        self._hold = "output" if self.constant else "parameters"

    def unfreeze(self) -> None:
        """Compute parameters and output in every forward pass again."""
        self._hold, self._cache = "", None

    def forward(self, values: Tensor) -> Tensor:
        """Return the values, fake-quantized in mode QUANTIZE."""
        if self.constant and self.grid.pair_limit is not None:
            self.refresh(values)
        if self.mode is Mode.QUANTIZE:
            rounded = self.quantize_tensor(values)
            if rounded.requires_grad:
                rounded.register_hook(finite)
            return rounded
        if self.mode is Mode.OBSERVE and self.observer is not None:
            self._observe(self.observer, values.detach())
        return values

    def _observe(self, observer: Observer, values: Tensor) -> None:
        # Every batch shows the same weight. One look is enough until bounds are taken over.
        if self.constant and self._pending:
            return
        try:
            observer.update(values if self.limits is None else values.clamp(*self.limits))
        except SrptqError as error:
            raise SrptqError(f"site {self.name}: {error}") from error
        self._pending = True

    def quantize_tensor(self, values: Tensor) -> Tensor:
        """Return the values fake-quantized by the current parameters, or by the cached ones if frozen."""
        if self._hold == "output":
            if not isinstance(self._cache, Tensor):
                self._cache = fake_quantize(values.detach(), self.qparams().detach())
            return self._cache
        if self._hold == "parameters":
            if not isinstance(self._cache, QParams):
                self._cache = self.qparams().detach()
            return fake_quantize(values, self._cache)
        if self.gradient == "pact":
            return fake_quantize_pact(values, self.bounds, self.qparams())
        return fake_quantize(values, self.qparams())

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        for end in ("lower", "upper"):
            saved = state_dict.get(prefix + end)
            if saved is not None:
                # torch copies into parameters of the saved shape only, and before calibration these are empty.
                parameter = getattr(self, end)
                parameter.data = torch.empty_like(saved, device=parameter.device)
                parameter.requires_grad_(not self.fixed)
        self._pending = False  # loaded bounds win over observed batches
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)  # pyright: ignore[reportArgumentType]

    def extra_repr(self) -> str:
        """Return the site, the mode and the grid, for `repr()`."""
        return f"{self.name}, {self.mode.value}, {self.grid}"
