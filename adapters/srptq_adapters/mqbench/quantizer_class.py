"""The bounded fake-quantizer in MQBench's shape: its switches, its buffers, its export."""

from typing import Any, ClassVar

import torch
from mqbench.fake_quantize.quantize_base import QuantizeBase  # pyright: ignore[reportMissingImports]
from mqbench.observer import MinMaxObserver  # pyright: ignore[reportMissingImports]
from mqbench.utils.utils import is_tracing_state, no_jit_trace  # pyright: ignore[reportMissingImports]
from torch import Tensor

from srptq_adapters.mqbench.grids import RANGE, bounds_of, grid_of, make_room, observer_arguments
from srptq_plugin.errors import SrptqError
from srptq_plugin.quantization.grid import Bounds, IntGrid
from srptq_plugin.quantization.observer import Observer
from srptq_plugin.quantization.quantizer import BoundedFakeQuantize, Mode

GRADIENTS = ("full", "pact")


class SRFakeQuantize(QuantizeBase):  # pyright: ignore[reportUntypedBaseClass]
    """Two learnable bounds under MQBench: `core` holds them, `scale` and `zero_point` follow.

    Registered as `BoundedFakeQuantize`; `a_fakeq_params: {gradient: pact}` takes PACT's gradient instead of the kind's
    own, and there are the options of a kind that has some.
    """

    kind: ClassVar[type[BoundedFakeQuantize]] = BoundedFakeQuantize

    def __init__(self, observer: Any, gradient: str | None = None, **arguments: Any) -> None:
        options = {name: arguments.pop(name) for name in self.kind.choices if name in arguments}
        super().__init__(observer, **arguments)
        if gradient not in (None, *GRADIENTS):
            raise SrptqError(f"gradient: {gradient!r} is not known; choices: {', '.join(GRADIENTS)}")
        grid = grid_of(self)
        core = self.kind("", grid, _Observed(self.activation_post_process, grid), options=options)
        if gradient is not None:
            core.gradient = gradient  # pyright: ignore[reportAttributeAccessIssue]
        self._take(core)

    @classmethod
    def around(cls, core: BoundedFakeQuantize) -> "SRFakeQuantize":
        """MQBench's shape for a quantizer that a plan made."""
        made = cls(MinMaxObserver, **observer_arguments(core.grid))
        made._take(core)
        return made

    def _take(self, core: BoundedFakeQuantize) -> None:
        self.core = core
        self._follows = False
        self._synced = (-1, -1)
        self.register_buffer("scale", torch.ones(1))
        self.register_buffer("zero_point", torch.zeros(1, dtype=torch.int32))
        core.set_mode(Mode.OBSERVE)

    def enable_observer(self, enabled: bool = True) -> None:  # noqa: FBT001, FBT002
        """Observe; while quantizing too, the bounds follow every batch."""
        super().enable_observer(enabled)
        self._switch()

    def enable_fake_quant(self, enabled: bool = True) -> None:  # noqa: FBT001, FBT002
        """Quantize, or let values pass."""
        super().enable_fake_quant(enabled)
        self._switch()

    def _switch(self) -> None:
        observe, quantize = bool(self.observer_enabled[0]), bool(self.fake_quant_enabled[0])
        self._follows = observe and quantize
        self.core.set_mode(Mode.OBSERVE if observe else Mode.QUANTIZE if quantize else Mode.OFF)
        self.sync()

    def sync(self) -> None:
        """Bring `scale` and `zero_point` up to the bounds."""
        self.core.finish_observing()
        if self.core.has_bounds:
            found = self.core.qparams().detach()
            self._synced = self._versions()
            self.scale = found.scale.reshape(-1)
            self.zero_point = found.integer_zero_point.reshape(-1)

    def _versions(self) -> tuple[int, int]:
        """How often an optimizer has changed each bound."""
        return self.core.lower._version, self.core.upper._version  # noqa: SLF001 - torch's own counter

    def calculate_qparams(self) -> tuple[Tensor, Tensor]:
        """Scale and zero point of the bounds as they stand."""
        self._refuse_dynamic()
        self.sync()
        return self.scale, self.zero_point

    def forward(self, values: Tensor) -> Tensor:
        if is_tracing_state():
            return self._traced(values)
        if self._follows:
            self.core.set_mode(Mode.OBSERVE)
            self.core(values)
            self.core.set_mode(Mode.QUANTIZE)
        if self.core.mode is Mode.QUANTIZE and self._synced != self._versions():
            self.sync()
        return self.core(values)

    def _traced(self, values: Tensor) -> Tensor:
        """What exporters know: torch's own fake-quantization, with plain numbers."""
        if self.core.mode is not Mode.QUANTIZE:
            return values
        self._refuse_dynamic()
        with no_jit_trace():
            self.sync()
        ends = (self.quant_min, self.quant_max)
        if self.is_per_channel:
            return torch.fake_quantize_per_channel_affine(values, self.scale, self.zero_point, self.ch_axis, *ends)
        one = (self.scale.item(), int(self.zero_point.item()))
        return torch.fake_quantize_per_tensor_affine(values, *one, *ends)

    def _refuse_dynamic(self) -> None:
        if self.core.dynamic:
            raise SrptqError(f"site {self.core.name}: its levels are computed from each image; use BoundedFakeQuantize")

    def _save_to_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self.sync()
        super()._save_to_state_dict(*args, **kwargs)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        make_room(self, ("scale", "zero_point"), state_dict, prefix)
        make_room(self.activation_post_process, RANGE, state_dict, f"{prefix}activation_post_process.")
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def quantizer_class(kind: type[BoundedFakeQuantize]) -> type[SRFakeQuantize]:
    """The class to register for one of the core's fake-quantizers, or of a plugin's."""
    return type(kind.__name__, (SRFakeQuantize,), {"kind": kind})


class _Observed:
    """An observer of MQBench's, ours or its own, as the core wants one."""

    def __init__(self, observer: Any, grid: IntGrid) -> None:
        self.observer, self.grid = observer, grid

    def update(self, values: Tensor) -> None:
        """Take in a batch."""
        self.observer(values)

    def merge(self, other: Observer) -> None:
        """MQBench's observers exchange by themselves, while they observe."""
        raise SrptqError(f"{type(self.observer).__name__} cannot be merged with {type(other).__name__}")

    def bounds(self) -> Bounds:
        """What its scale and zero point stand for."""
        scale, zero_point = self.observer.calculate_qparams()
        return bounds_of(scale, zero_point, self.grid)
