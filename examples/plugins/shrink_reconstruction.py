"""A reconstruction: at one site after another it narrows the bounds, as far as the output image gains by it."""

from collections.abc import Iterable, Mapping

import torch
from pydantic import Field
from torch import Tensor

from srptq_plugin.plugin_api import (
    BoundedFakeQuantize,
    Bounds,
    Options,
    PreparedGraph,
    Progress,
    ReconstructionEntry,
    hookimpl,
    quiet,
)

COMPARED = 16
"""The number of patches on which images are compared."""


class ShrinkOptions(Options):
    """The options of the reconstruction."""

    least: float = Field(default=0.7, gt=0, lt=1)
    """The smallest factor for a pair of bounds."""
    candidates: int = Field(default=4, ge=2)
    """The number of factors that are tried at each site, from 1 down to `least`."""


def shrink(
    prepared: PreparedGraph,
    images: Tensor,
    *,
    least: float,
    candidates: int,
    progress: Progress = quiet,
    seed: int = 0,
) -> Mapping[str, float]:
    """Shrink bounds in place. Return the number of sites whose bounds changed."""
    drawn = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))[:COMPARED]
    images = images[drawn.to(images.device)]
    teacher, _ = prepared.float_forward(images)
    factors = torch.linspace(1, least, candidates).tolist()
    # Fixed quantizers, such as the quantizer of the image, keep their bounds.
    quantizers = [quantizer for quantizer in prepared.quantizers.values() if not quantizer.fixed]
    shrunk = 0
    for done, quantizer in enumerate(quantizers):
        progress("shrinking bounds", done, len(quantizers))
        bounds = quantizer.qparams().bounds
        errors = [_error(prepared, images, teacher, quantizer, _scaled(bounds, factor)) for factor in factors]
        # Of equal errors the first wins: the widest bounds.
        best = factors[errors.index(min(errors))]
        quantizer.set_bounds(_scaled(bounds, best))
        shrunk += best < 1
    return {"shrunk": shrunk}


def _scaled(bounds: Bounds, factor: float) -> Bounds:
    return Bounds.of(bounds.lower * factor, bounds.upper * factor)


def _error(
    prepared: PreparedGraph, images: Tensor, teacher: Tensor, quantizer: BoundedFakeQuantize, bounds: Bounds
) -> float:
    """Return the mean squared difference from the float network's images with these bounds."""
    quantizer.set_bounds(bounds)
    return prepared.noise(images, teacher)


@hookimpl
def srptq_reconstructions() -> Iterable[ReconstructionEntry]:
    """Register the reconstruction."""
    return [
        ReconstructionEntry("shrink", "narrows bounds site by site", load=lambda: shrink, options=ShrinkOptions),
    ]
