"""Of the bounds that an observer offers for a site, those whose rounding moves the image least, to first order.

Errors that add up over a map, as those of clipping do, and errors that cancel are told apart.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from srptq_plugin.planning.prepared_graph import PreparedGraph
from srptq_plugin.quantization.grid import Bounds, project
from srptq_plugin.quantization.quantizer import BoundedFakeQuantize, fake_quantize
from srptq_plugin.reconstruction.sensitivity import pulls


def choose_bounds(prepared: PreparedGraph, images: Tensor, draws: int = 4, seed: int = 0) -> None:
    """Set the bounds of each activation whose observer offers several."""
    offered = dict(_offers(prepared))
    if not offered:
        return
    errors = {group: torch.zeros(len(offers), dtype=torch.float64) for group, offers in offered.items()}
    for maps, drawn in pulls(prepared, offered, images, draws, seed):
        for group, offers in offered.items():
            pulled = [pull[group] for pull in drawn]
            for n, bounds in enumerate(offers):
                errors[group][n] += _moved(prepared.quantizers[group], bounds, maps[group], pulled)
    for group, offers in offered.items():
        prepared.quantizers[group].set_bounds(offers[int(errors[group].argmin())])


def _offers(prepared: PreparedGraph) -> Iterator[tuple[str, Sequence[Bounds]]]:
    for group, quantizer in prepared.of_role("activation").items():
        offers: Any = getattr(quantizer.observer, "offers", None)
        if offers is not None and not quantizer.fixed and len(found := offers()) > 1:
            yield group, found


def _moved(
    quantizer: BoundedFakeQuantize, bounds: Bounds, maps: Sequence[Tensor], pulled: Sequence[Sequence[Tensor]]
) -> float:
    """How far the image moves, squared and summed over samples and signs."""
    qparams = project(bounds, quantizer.grid)
    with torch.no_grad():
        errors = [fake_quantize(each, qparams) - each for each in maps]
        moves = [sum((p * e).flatten(1).sum(1) for p, e in zip(pull, errors, strict=True)) for pull in pulled]
    return float(torch.stack(moves).double().square().sum())  # pyright: ignore[reportArgumentType] - tensors
