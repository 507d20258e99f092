"""The core's fake-quantizer as a subclass of torchao's own base, which torchao accepts."""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torchao.quantization.pt2e.fake_quantize import FakeQuantize, FakeQuantizeBase
from torchao.quantization.pt2e.observer import AffineQuantizedObserverBase, ObserverBase
from torchao.quantization.pt2e.quantizer import QuantizationSpec

from srptq_plugin.errors import SrptqError
from srptq_plugin.quantization.grid import IntGrid
from srptq_plugin.quantization.quantizer import BoundedFakeQuantize, Mode
from srptq_plugin.quantization.quantizer_kinds import AnyQuantizer

_DTYPES = {(False, 8): torch.uint8, (True, 8): torch.int8, (False, 16): torch.uint16, (True, 16): torch.int16}

for _kind in (FakeQuantizeBase, ObserverBase, AffineQuantizedObserverBase):
    AnyQuantizer.register(_kind)


class TorchaoFakeQuantize(BoundedFakeQuantize, FakeQuantizeBase):  # pyright: ignore[reportIncompatibleMethodOverride]
    """`BoundedFakeQuantize` with the attributes that `convert_pt2e` reads, and torchao's own switches."""

    is_dynamic = False

    def __init__(self, name: str, grid: IntGrid, *args: Any, **keywords: Any) -> None:
        super().__init__(name, grid, *args, **keywords)
        self.quant_min, self.quant_max = grid.qmin, grid.qmax
        self.dtype = _DTYPES[grid.signed, 8 if grid.bits <= 8 else 16]  # noqa: PLR2004
        self.qscheme = to_qscheme(grid)
        self.ch_axis = -1 if grid.channel_axis is None else grid.channel_axis

    def calculate_qparams(self, **kwargs: Any) -> tuple[Tensor, Tensor]:  # noqa: ARG002 # pyright: ignore[reportIncompatibleMethodOverride]
        """Return scale and zero point for `convert_pt2e`."""
        if self.dynamic:
            raise SrptqError(f"convert_pt2e: site {self.name}: its levels are computed from each image; use bounded")
        if self.grid.float_zero_point:
            raise SrptqError("convert_pt2e: the paper's real offset is no integer grid; use a recipe of a real target")
        self.finish_observing()  # `convert_pt2e` may come without a switch to quantizing
        qparams = self.qparams().detach()
        return qparams.scale, qparams.integer_zero_point

    def enable_observer(self, enabled: bool = True) -> None:  # noqa: FBT001, FBT002
        """Switch observing on or off. While it is on, nothing is quantized."""
        super().enable_observer(enabled)
        self._switch()

    def enable_fake_quant(self, enabled: bool = True) -> None:  # noqa: FBT001, FBT002
        """Switch quantizing on or off. It takes effect once observing has ended."""
        super().enable_fake_quant(enabled)
        self._switch()

    def _switch(self) -> None:
        quantize = Mode.QUANTIZE if self.fake_quant_enabled[0] else Mode.OFF
        self.set_mode(Mode.OBSERVE if self.observer_enabled[0] else quantize)


@cache
def fake_quantize_class(kind: type[BoundedFakeQuantize]) -> type[BoundedFakeQuantize]:
    """Return the torchao class of a fake-quantizer of the core or of a plugin."""
    return TorchaoFakeQuantize if kind is BoundedFakeQuantize else type(kind.__name__, (TorchaoFakeQuantize, kind), {})


def to_qscheme(grid: IntGrid) -> torch.qscheme:
    """Return torch's name for a grid's kind of scale."""
    if grid.channel_axis is None:
        return torch.per_tensor_symmetric if grid.symmetric else torch.per_tensor_affine
    return torch.per_channel_symmetric if grid.symmetric else torch.per_channel_affine


def read_grid(spec: QuantizationSpec | FakeQuantize) -> IntGrid:
    """Return the grid that a stock quantizer asks for, or that a fake-quantizer has."""
    # Symmetric unsigned activations, as in some stock quantizers, have a zero point in the middle: affine for the core.
    info = torch.iinfo(spec.dtype)
    low = info.min if spec.quant_min is None else spec.quant_min
    high = info.max if spec.quant_max is None else spec.quant_max
    symmetric = low < 0 and spec.qscheme in (torch.per_tensor_symmetric, torch.per_channel_symmetric)
    per_channel = spec.qscheme in (torch.per_channel_symmetric, torch.per_channel_affine)
    try:
        return IntGrid.between(
            low, high, symmetric=symmetric, channel_axis=(spec.ch_axis or 0) if per_channel else None
        )
    except SrptqError as error:
        raise SrptqError(f"with_observer: {error}") from error


Constructor = Callable[[], nn.Module]


def constructor(build: Constructor) -> Constructor:
    """Return a function that builds a module and that torchao can carry in a spec.

    torchao calls `with_args` of it, and makes deep copies of specs. A function is its own deep copy.
    """

    def make() -> nn.Module:
        return build()

    def with_args(**_: Any) -> Constructor:
        return make

    make.with_args = with_args  # pyright: ignore[reportFunctionMemberAccess]
    return make
