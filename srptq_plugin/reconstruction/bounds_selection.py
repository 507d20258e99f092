"""Selection among the bounds that an observer offers for a site, by how far their rounding moves the image.

The measure is the first order of that move. It tells errors that add up over a map, such as clipping, from errors
that cancel.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from srptq_plugin.planning.prepared_graph import PreparedGraph
from srptq_plugin.quantization.grid import Bounds, project
from srptq_plugin.quantization.quantizer import BoundedFakeQuantize, fake_quantize
from srptq_plugin.reconstruction.sensitivity import iter_pulls
from srptq_plugin.utils.distributed import all_reduce_mean


def choose_bounds(prepared: PreparedGraph, images: Tensor, draws: int = 4, seed: int = 0) -> None:
    """Set the bounds of each activation whose observer offers several to the offer that moves the image least.

    Several processes measure on images of their own, and choose the same.

    Args:
        prepared: An observed graph.
        images: Calibration images, [N, 3, H, W].
        draws: The number of random sign images for each batch.
        seed: The seed of the signs.
    """
    offered = dict(_iter_offers(prepared))
    if not offered:
        return
    errors = {group: torch.zeros(len(offers), dtype=torch.float64) for group, offers in offered.items()}
    for maps, pulls_by_draw in iter_pulls(prepared, offered, images, draws, seed):
        for group, offers in offered.items():
            pulls = [by_group[group] for by_group in pulls_by_draw]
            for n, bounds in enumerate(offers):
                errors[group][n] += _measure_move(prepared.quantizers[group], bounds, maps[group], pulls)
    all_reduce_mean(errors.values())
    for group, offers in offered.items():
        prepared.quantizers[group].set_bounds(offers[int(errors[group].argmin())])


def _iter_offers(prepared: PreparedGraph) -> Iterator[tuple[str, Sequence[Bounds]]]:
    for group, quantizer in prepared.of_role("activation").items():
        list_offers: Any = getattr(quantizer.observer, "offers", None)
        if list_offers is not None and not quantizer.fixed:
            offers = list_offers()
            if len(offers) > 1:
                yield group, offers


def _measure_move(
    quantizer: BoundedFakeQuantize, bounds: Bounds, maps: Sequence[Tensor], pulls: Sequence[Sequence[Tensor]]
) -> float:
    """Return the squared move of the image if these bounds round the maps, summed over samples and draws."""
    qparams = project(bounds, quantizer.grid)
    with torch.no_grad():
        errors = [fake_quantize(values, qparams) - values for values in maps]
        # v J e: the errors of one group move the image together, so that they are summed before the square.
        moves = [sum((p * e).flatten(1).sum(1) for p, e in zip(pull, errors, strict=True)) for pull in pulls]
    return float(torch.stack(moves).double().square().sum())  # pyright: ignore[reportArgumentType] - tensors
