"""Bounds out of and into any MQBench fake-quantizer. MQBench's own learn a scale, ours two bounds."""

from typing import Any

import torch
from mqbench.fake_quantize import PACTFakeQuantize  # pyright: ignore[reportMissingImports]
from torch import Tensor

from srptq_adapters.mqbench.grids import read_grid, to_bounds
from srptq_adapters.mqbench.quantizer_class import SRFakeQuantize
from srptq_plugin.errors import SrptqError
from srptq_plugin.quantization.grid import Bounds, QParams, project
from srptq_plugin.quantization.quantizer import BoundedFakeQuantize

PLAIN = ("Fixed", "Learnable", "DSQ", "PACT", "QDrop", "AdaRound")
"""MQBench's fake-quantizers that only clip, scale and round their tensor."""


def is_plain(quantizer: Any) -> bool:
    """Tell whether bounds determine all that a fake-quantizer computes."""
    known = type(quantizer).__name__ in [f"{name}FakeQuantize" for name in PLAIN]
    return isinstance(quantizer, SRFakeQuantize) or known


def to_bounded(quantizer: Any, name: str) -> BoundedFakeQuantize:
    """Return a bounded fake-quantizer with the bounds of a calibrated MQBench fake-quantizer."""
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
    bounded = BoundedFakeQuantize(name, read_grid(quantizer))
    bounded.fixed = False
    bounded.set_bounds(to_bounds(quantizer.scale, quantizer.zero_point, bounded.grid))
    return bounded


def adopt(quantizer: Any, bounds: Bounds) -> None:
    """Start an MQBench fake-quantizer from bounds: observer off, quantization on."""
    quantizer.disable_observer()
    quantizer.enable_fake_quant()
    if isinstance(quantizer, SRFakeQuantize):
        quantizer.core.set_bounds(bounds)
        quantizer.sync()
        return
    qparams = project(bounds, read_grid(quantizer)).detach()
    _fill(quantizer, "scale", qparams.scale)
    _fill(quantizer, "zero_point", qparams.integer_zero_point)
    set_clip(quantizer, qparams)
    # The observer gets the bounds too: with it enabled again, moving averages go on from these.
    observer, projected = quantizer.activation_post_process, qparams.bounds
    observer.min_val, observer.max_val = projected.lower.to(observer.min_val), projected.upper.to(observer.min_val)


def set_clip(quantizer: Any, qparams: QParams) -> None:
    """Set the clipping bounds of a PACT fake-quantizer, which has its own besides scale and zero point.

    Any other fake-quantizer stays as it is.
    """
    if not isinstance(quantizer, PACTFakeQuantize):
        return
    lower, upper = qparams.bounds.lower, qparams.bounds.upper
    quantizer.alpha.data.fill_(float(upper))
    if hasattr(quantizer, "n_alpha"):  # Symmetric PACT has no lower clip of its own.
        quantizer.n_alpha.data.fill_(float(lower))


def _fill(quantizer: Any, name: str, values: Tensor) -> None:
    """Write a parameter or buffer, with its own type and device."""
    old = getattr(quantizer, name)
    # Through .data the object stays the same one, as an optimizer may hold it, and its shape may change.
    old.data = values.reshape(-1).to(old)
