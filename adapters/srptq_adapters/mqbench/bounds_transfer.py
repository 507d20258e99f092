"""Bounds out of, and into, any fake-quantizer of MQBench's: its own learn a scale, ours two bounds."""

from typing import Any

import torch
from mqbench.fake_quantize import PACTFakeQuantize  # pyright: ignore[reportMissingImports]
from mqbench.fake_quantize.quantize_base import QuantizeBase  # pyright: ignore[reportMissingImports]
from torch import Tensor

from srptq_adapters.mqbench.grids import bounds_of, grid_of
from srptq_adapters.mqbench.quantizer_class import SRFakeQuantize
from srptq_plugin.errors import SrptqError
from srptq_plugin.quantization.grid import Bounds, QParams, project
from srptq_plugin.quantization.quantizer import BoundedFakeQuantize

PLAIN = ("Fixed", "Learnable", "DSQ", "PACT", "QDrop", "AdaRound")
"""Those of MQBench's own that clip, scale and round, and do nothing else to their tensor."""


def is_plain(quantizer: Any) -> bool:
    """Whether bounds are all that there is to know about a fake-quantizer."""
    known = type(quantizer).__name__ in [f"{name}FakeQuantize" for name in PLAIN]
    return isinstance(quantizer, SRFakeQuantize) or known


def core_of(quantizer: Any, name: str) -> BoundedFakeQuantize:
    """A bounded fake-quantizer that starts where this one stands."""
    if not is_plain(quantizer):
        names = ", ".join(f"{known}FakeQuantize" for known in PLAIN)
        raise SrptqError(
            f"site {name}: the bounds of a {type(quantizer).__name__} cannot be tuned; use BoundedFakeQuantize, {names}"
        )
    if isinstance(quantizer, SRFakeQuantize):
        quantizer.core.name = name
        return quantizer.core
    if not torch.isfinite(quantizer.activation_post_process.min_val).all():
        hint = "; DSQ observes in train mode only" if type(quantizer).__name__.startswith("DSQ") else ""
        raise SrptqError(f"site {name}: no bounds yet; calibrate the model first{hint}")
    core = BoundedFakeQuantize(name, grid_of(quantizer))
    core.fixed = False
    core.set_bounds(bounds_of(quantizer.scale, quantizer.zero_point, core.grid))
    return core


def adopt(quantizer: Any, bounds: Bounds) -> bool:
    """Start from these bounds, observer off, quantization on; whether it is a fake-quantizer of MQBench's."""
    if not isinstance(quantizer, QuantizeBase):
        return False
    quantizer.disable_observer()
    quantizer.enable_fake_quant()
    if isinstance(quantizer, SRFakeQuantize):
        quantizer.core.set_bounds(bounds)
        quantizer.sync()
        return True
    found = project(bounds, grid_of(quantizer)).detach()
    _fill(quantizer, "scale", found.scale)
    _fill(quantizer, "zero_point", found.integer_zero_point)
    start_pact(quantizer, found)
    seen = quantizer.activation_post_process
    seen.min_val, seen.max_val = (end.to(seen.min_val) for end in (found.bounds.lower, found.bounds.upper))
    return True


def start_pact(quantizer: Any, found: QParams) -> None:
    """PACT clips at bounds of its own."""
    if not isinstance(quantizer, PACTFakeQuantize):
        return
    lower, upper = found.bounds.lower, found.bounds.upper
    quantizer.alpha.data.fill_(float(upper))
    if hasattr(quantizer, "n_alpha"):
        quantizer.n_alpha.data.fill_(float(lower))


def _fill(quantizer: Any, name: str, values: Tensor) -> None:
    """Write a parameter or buffer, its type and place kept."""
    old = getattr(quantizer, name)
    old.data = values.reshape(-1).to(old)
