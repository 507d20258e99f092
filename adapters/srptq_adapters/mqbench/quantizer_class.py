"""The bounded fake-quantizer with MQBench's switches, buffers and export."""

from typing import Any, ClassVar

import torch
from mqbench.fake_quantize.quantize_base import QuantizeBase  # pyright: ignore[reportMissingImports]
from mqbench.observer import MinMaxObserver  # pyright: ignore[reportMissingImports]
from mqbench.utils.utils import is_tracing_state, no_jit_trace  # pyright: ignore[reportMissingImports]
from torch import Tensor

from srptq_adapters.mqbench.grids import RANGE, make_room, observer_arguments, read_grid, to_bounds
from srptq_plugin.errors import SrptqError
from srptq_plugin.quantization.grid import Bounds, IntGrid
from srptq_plugin.quantization.observer import Observer
from srptq_plugin.quantization.quantizer import BoundedFakeQuantize, Mode

GRADIENTS = ("full", "pact")


class SRFakeQuantize(QuantizeBase):  # pyright: ignore[reportUntypedBaseClass]
    """An MQBench fake-quantizer around one of the core's. `core` holds the bounds, `scale` and `zero_point` follow.

    It is registered as `BoundedFakeQuantize`. `a_fakeq_params: {gradient: pact}` selects PACT's gradient instead of the
    kind's own. The options of the kind are given in the same way.
    """

    kind: ClassVar[type[BoundedFakeQuantize]] = BoundedFakeQuantize
    """The class of `core`."""

    def __init__(self, observer: Any, gradient: str | None = None, **arguments: Any) -> None:
        options = {name: arguments.pop(name) for name in self.kind.options_type.model_fields if name in arguments}
        super().__init__(observer, **arguments)
        if gradient not in (None, *GRADIENTS):
            raise SrptqError(f"gradient: {gradient!r} is unknown; give {' or '.join(GRADIENTS)}")
        grid = read_grid(self)
        core = self.kind("", grid, _Observed(self.activation_post_process, grid), options=options)
        if gradient is not None:
            core.gradient = gradient  # pyright: ignore[reportAttributeAccessIssue]
        self._set_core(core)

    @classmethod
    def around(cls, core: BoundedFakeQuantize) -> "SRFakeQuantize":
        """Wrap a quantizer that was built from a plan."""
        wrapper = cls(MinMaxObserver, **observer_arguments(core.grid))  # The core has an observer of its own.
        wrapper._set_core(core)
        return wrapper

    def _set_core(self, core: BoundedFakeQuantize) -> None:
        self.core = core
        self._follows = False
        self._synced = (-1, -1)
        self.register_buffer("scale", torch.ones(1))
        self.register_buffer("zero_point", torch.zeros(1, dtype=torch.int32))
        core.set_mode(Mode.OBSERVE)

    def enable_observer(self, enabled: bool = True) -> None:  # noqa: FBT001, FBT002
        """Switch observing on or off. With both on, the bounds follow every batch and it is quantized with them."""
        super().enable_observer(enabled)
        self._switch()

    def enable_fake_quant(self, enabled: bool = True) -> None:  # noqa: FBT001, FBT002
        """Switch quantizing on or off. With both off, values pass."""
        super().enable_fake_quant(enabled)
        self._switch()

    def _switch(self) -> None:
        observe, quantize = bool(self.observer_enabled[0]), bool(self.fake_quant_enabled[0])
        self._follows = observe and quantize
        self.core.set_mode(Mode.OBSERVE if observe else Mode.QUANTIZE if quantize else Mode.OFF)
        self.sync()

    def sync(self) -> None:
        """Recompute `scale` and `zero_point` from the bounds."""
        self.core.finish_observing()
        if self.core.has_bounds:
            qparams = self.core.qparams().detach()
            self._synced = self._versions()
            self.scale = qparams.scale.reshape(-1)
            self.zero_point = qparams.integer_zero_point.reshape(-1)

    def calculate_qparams(self) -> tuple[Tensor, Tensor]:
        """Return scale and zero point of the current bounds."""
        self._refuse_dynamic()
        self.sync()
        return self.scale, self.zero_point

    def forward(self, values: Tensor) -> Tensor:
        if is_tracing_state():
            return self._export(values)
        if self._follows:
            # The core has one mode at a time: observe the batch first, then quantize it with the new bounds.
            self.core.set_mode(Mode.OBSERVE)
            self.core(values)
            self.core.set_mode(Mode.QUANTIZE)
        # An optimizer changes the bounds in place. Torch's version counters show when the buffers are out of date.
        # Invariant: after a forward pass scale and zero point are those that it quantized with.
        if self.core.mode is Mode.QUANTIZE and self._synced != self._versions():
            self.sync()
        return self.core(values)

    def _versions(self) -> tuple[int, int]:
        """Return torch's counters of changes in place, one for each bound."""
        return self.core.lower._version, self.core.upper._version  # noqa: SLF001 - no public name

    def _export(self, values: Tensor) -> Tensor:
        """Quantize by torch's own operators with constant parameters, as exporters know no others."""
        if self.core.mode is not Mode.QUANTIZE:
            return values
        self._refuse_dynamic()
        with no_jit_trace():  # Traced, the projection would become part of the file.
            self.sync()
        ends = (self.quant_min, self.quant_max)
        if self.is_per_channel:
            return torch.fake_quantize_per_channel_affine(values, self.scale, self.zero_point, self.ch_axis, *ends)
        scale, zero_point = self.scale.item(), int(self.zero_point.item())
        return torch.fake_quantize_per_tensor_affine(values, scale, zero_point, *ends)

    def _refuse_dynamic(self) -> None:
        if self.core.dynamic:
            raise SrptqError(
                f"site {self.core.name}: its levels are computed from each image, so it has no constant scale; "
                "use BoundedFakeQuantize"
            )

    def _save_to_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self.sync()
        super()._save_to_state_dict(*args, **kwargs)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        make_room(self, ("scale", "zero_point"), state_dict, prefix)
        make_room(self.activation_post_process, RANGE, state_dict, f"{prefix}activation_post_process.")
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def quantizer_class(kind: type[BoundedFakeQuantize]) -> type[SRFakeQuantize]:
    """Return the class to register for a fake-quantizer of the core or of a plugin."""
    return type(kind.__name__, (SRFakeQuantize,), {"kind": kind})


class _Observed:
    """An MQBench observer, ours or its own, behind the core's `Observer` protocol."""

    def __init__(self, observer: Any, grid: IntGrid) -> None:
        self.observer, self.grid = observer, grid

    def update(self, values: Tensor) -> None:
        """Observe a batch."""
        self.observer(values)

    def merge(self, other: Observer) -> None:
        """Raise an error. MQBench's observers merge by themselves while they observe."""
        raise SrptqError(f"{type(self.observer).__name__} cannot be merged with {type(other).__name__}")

    def bounds(self) -> Bounds:
        """Return the bounds that its scale and zero point stand for."""
        scale, zero_point = self.observer.calculate_qparams()
        return to_bounds(scale, zero_point, self.grid)
