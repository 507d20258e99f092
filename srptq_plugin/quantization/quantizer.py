"""The bounded fake-quantizer: two learnable bounds, projected on the target's grid at every step."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import Enum
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from srptq_plugin.errors import SrptqError, UnknownNameError
from srptq_plugin.quantization.fake_quantize import Gradient, fake_quantize, fake_quantize_pact, finite
from srptq_plugin.quantization.grid import Bounds, IntGrid, QParams, project
from srptq_plugin.quantization.observer import Observer
from srptq_plugin.quantization.saturation import safe


class Mode(Enum):
    """What a fake-quantizer does with its tensor: nothing, look at it, or quantize it."""

    OFF = "off"
    OBSERVE = "observe"
    QUANTIZE = "quantize"


class BoundedFakeQuantize(nn.Module):
    """A fake-quantizer with learnable `lower` and `upper`; off, observing or quantizing.

    >>> quantizer = BoundedFakeQuantize("input", IntGrid(2), bounds=Bounds.of(-1.0, 1.0))
    >>> quantizer.set_mode(Mode.QUANTIZE)
    >>> quantizer(torch.tensor([-2.0, 0.0, 0.4])).tolist()
    [-0.6666666865348816, 0.0, 0.6666666865348816]
    """

    lower: nn.Parameter
    upper: nn.Parameter
    gradient: Gradient = "full"
    learns: ClassVar[bool] = True
    """Whether training may move the bounds."""
    dynamic: ClassVar[bool] = False
    """Whether it computes its levels from the tensor at hand, each image's anew, which no integer target does."""
    choices: ClassVar[Mapping[str, Any]] = {}
    """The options that it has, and what they are unless given."""

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
        super().__init__()
        self.options = self._chosen(options or {})
        self.name, self.grid, self.observer, self.constant = name, grid, observer, constant
        self.mode = Mode.OBSERVE
        self.fixed = observer is None or not self.learns
        self.observed: Bounds | None = None
        self._fresh = False
        self._weight: Tensor | None = None
        self._held: Tensor | QParams | None = None
        self._hold: Literal["", "parameters", "output"] = ""
        empty = torch.empty(0, dtype=torch.float64)
        self.lower, self.upper = (nn.Parameter(each, requires_grad=False) for each in (empty, empty.clone()))
        if bounds is not None:
            self.set_bounds(bounds)
        self.eval()

    def _chosen(self, options: Mapping[str, Any]) -> Mapping[str, Any]:
        for name in options:
            if name not in self.choices:
                raise UnknownNameError("option", name, self.choices)
        return {**self.choices, **options}

    @property
    def has_bounds(self) -> bool:
        """Whether bounds were set: given, restored, or taken over from the observer."""
        return bool(self.lower.numel())

    @property
    def has_pending(self) -> bool:
        """Whether batches were observed that `finish_observing()` has yet to turn into bounds."""
        return self._fresh

    @property
    def bounds(self) -> Bounds:
        """The current bounds: set, tuned, or taken over from the observer by `finish_observing()`.

        A lower bound of zero gets no gradient: runtimes fuse a ReLU only where zero is its smallest integer.

        Raises:
            SrptqError: there are no bounds, or batches were observed that they do not include yet.
        """
        if self._fresh:
            raise SrptqError(
                f"site {self.name}: still observing, bounds are not final; "
                "call finish_observing() or set_mode(Mode.QUANTIZE) first"
            )
        if not self.has_bounds:
            raise SrptqError(f"site {self.name}: no bounds yet; run calibration images through the network first")
        if self.grid.float_zero_point or not self.lower.requires_grad:
            return Bounds(self.lower, self.upper)
        return Bounds(torch.where(self.lower == 0, self.lower.detach(), self.lower), self.upper)

    def set_bounds(self, bounds: Bounds) -> None:
        """Start from these bounds, projected: each bound is where its gradient acts."""
        self.set_learnable_bounds(self.project(bounds).bounds)

    def set_learnable_bounds(self, bounds: Bounds) -> None:
        """Learn from these very bounds."""
        for parameter, end in ((self.lower, bounds.lower), (self.upper, bounds.upper)):
            home = end.device if end.device.type != "cpu" else parameter.device
            parameter.data = end.detach().to(home, copy=True)
            parameter.requires_grad_(not self.fixed)
        self._fresh = False

    def finish_observing(self) -> None:
        """Set the bounds from the observer. Does nothing if no batch was observed since they were last set."""
        if self.observer is not None and self._fresh:
            self.observed = self.observer.bounds()
            self.set_bounds(self.observed)

    def qparams(self) -> QParams:
        """The projected parameters: what PaC tunes and every file holds."""
        return self.project(self.bounds)

    def project(self, bounds: Bounds) -> QParams:
        """Project bounds on the grid; a weight's scale is raised where its kernels could overflow."""
        projected = project(bounds, self.grid)
        return projected if self._weight is None else safe(self._weight, projected)

    def refresh(self, weight: Tensor) -> None:
        """Take in the weight as it is now, since its values may decide about the scale."""
        self._weight = weight.detach()

    def state(self) -> dict[str, Tensor]:
        """What a dynamic one has to be given to quantize again as it does now."""
        return {"lower": self.lower.detach().clone(), "upper": self.upper.detach().clone()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on as the dynamic one did that gave this `state()`, as far as there is a place for it."""
        if self.dynamic:
            self.load_state_dict(dict(state), strict=False)

    @classmethod
    def on_train_begin(cls, members: Sequence[Any], run_float: Callable[[], object]) -> None:
        """A training of these begins; `run_float` runs the float network on some of its images."""

    def extra_parameters(self) -> Iterator[tuple[nn.Parameter, float]]:
        """What learns beside the bounds, with Adam's step for it."""
        yield from ()

    def on_progress(self, fraction: float) -> None:
        """Training has come so far."""

    def auxiliary_loss(self) -> Tensor | None:
        """What the last forward adds to the loss of a training."""

    def set_mode(self, mode: Mode) -> None:
        """Switch; what was observed is taken over first."""
        self.finish_observing()
        self.unfreeze()
        self.mode = mode

    def freeze(self) -> None:
        """Keep the parameters, and for a constant tensor the very output, from the next forward on."""
        self.unfreeze()
        self._hold = "output" if self.constant else "parameters"

    def unfreeze(self) -> None:
        """Compute afresh at every forward."""
        self._hold, self._held = "", None

    def forward(self, values: Tensor) -> Tensor:
        if self.constant and self.grid.pair_limit is not None:
            self.refresh(values)
        if self.mode is Mode.QUANTIZE:
            rounded = self.quantize_tensor(values)
            if rounded.requires_grad:
                rounded.register_hook(finite)
            return rounded
        if self.mode is Mode.OBSERVE and self.observer is not None:
            self._observe(values.detach())
        return values

    def _observe(self, values: Tensor) -> None:
        if self.constant and self._fresh:
            return
        try:
            self.observer.update(values)  # pyright: ignore[reportOptionalMemberAccess]
        except SrptqError as error:
            raise SrptqError(f"site {self.name}: {error}") from error
        self._fresh = True

    def quantize_tensor(self, values: Tensor) -> Tensor:
        if self._hold == "output":
            if not isinstance(self._held, Tensor):
                self._held = fake_quantize(values.detach(), self.qparams().detach())
            return self._held
        if self._hold == "parameters":
            if not isinstance(self._held, QParams):
                self._held = self.qparams().detach()
            return fake_quantize(values, self._held)
        if self.gradient == "pact":
            return fake_quantize_pact(values, self.bounds, self.qparams())
        return fake_quantize(values, self.qparams())

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        for end in ("lower", "upper"):
            saved = state_dict.get(prefix + end)
            if saved is not None:
                parameter = getattr(self, end)
                parameter.data = torch.empty_like(saved, device=parameter.device)
                parameter.requires_grad_(not self.fixed)
        self._fresh = False
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)  # pyright: ignore[reportArgumentType]

    def extra_repr(self) -> str:
        return f"{self.name}, {self.mode.value}, {self.grid}"
