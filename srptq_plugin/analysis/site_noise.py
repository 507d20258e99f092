"""How much noise the rounding of each tensor puts into the image, estimated for all of them at once."""

from collections import defaultdict
from collections.abc import Sequence
from itertools import compress

import torch
from torch import Tensor

from srptq_plugin.analysis.subject import Subject
from srptq_plugin.graph.network import Network
from srptq_plugin.quantization.quantizer import BoundedFakeQuantize
from srptq_plugin.reconstruction.sensitivity import iter_pulls

DRAWS = 8
"""The number of random sign images for each batch."""


def estimate_noise(subject: Subject, seed: int = 0, *, weights: bool = False) -> dict[str, float]:
    """Return the noise of each group of activations alone, in squared levels of an 8-bit image.

    This is the first order of what `measure_noise` measures, for the time of a few passes: the noise of rounding one
    tensor, carried to the image by random signs.

    Args:
        subject: The quantized network and the patches.
        seed: The seed of the signs.
        weights: Whether to return the noise of weights too.
    """
    prepared = subject.table.simulate(subject.network)
    activations, once = prepared.of_role("activation"), _rounded_once(subject)
    floats = _float_weights(subject) if weights else {}
    moves: dict[str, float] = defaultdict(float)
    for maps, pulls_by_draw in iter_pulls(prepared, [*activations, *floats], subject.patches, DRAWS, seed):
        for group, quantizer in activations.items():
            errors = _rounding_errors(quantizer, list(compress(maps[group], once[group])))
            for pulls in pulls_by_draw:
                # v J e: the errors of one group move the image together, so that they are summed before the square
                pairs = zip(compress(pulls[group], once[group]), errors, strict=True)
                move = sum((pull * error).flatten(1).sum(1) for pull, error in pairs)
                moves[group] += float(torch.as_tensor(move).double().square().sum())
        for group, weight in floats.items():
            for pulls in pulls_by_draw:
                # One error moves all images of a batch. Their signs are independent, so that products of moves cancel.
                pairs = zip(pulls[group], maps[group], strict=True)
                move = sum((pull * (values.detach() - weight)).double().sum() for pull, values in pairs)
                moves[group] += float(torch.as_tensor(move).square())
    pixels = subject.patches.numel() * subject.record.scale**2
    levels = float(subject.levels(torch.ones(())))
    return {group: move * levels**2 / (DRAWS * pixels) for group, move in moves.items()}


def _float_weights(subject: Subject) -> dict[str, Tensor]:
    """Return the float weight of each group of weights."""
    return {site.group: subject.network.get_parameter(site.source).detach() for site in subject.table.plan.weights}


def _rounded_once(subject: Subject) -> dict[str, list[bool]]:
    """Tell for each call of a group's quantizer, in the order of the graph, whether it rounds values first."""
    network = Network(subject.network)
    by_group = {
        group: sorted(sites, key=lambda site: network.positions[network.nodes[site.source]])
        for group, sites in subject.table.plan.groups.items()
        if sites[0].role == "activation"
    }
    return {group: [not site.repeats for site in sites] for group, sites in by_group.items()}


def _rounding_errors(quantizer: BoundedFakeQuantize, maps: Sequence[Tensor]) -> list[Tensor]:
    with torch.no_grad():
        return [quantizer(values.detach()) - values.detach() for values in maps]
