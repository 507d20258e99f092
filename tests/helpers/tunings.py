"""PaC on small networks: the images, the bounds before and after, and the loss by plain arithmetic."""

import math
from typing import Any

import torch
from torch import Tensor

from helpers import networks
from srptq_plugin.planning.prepared_graph import PreparedGraph

Bits = dict[str, tuple[Tensor, Tensor]]
"""The bounds of every quantizer."""
IMAGES = networks.images(6, seed=3)
PLAIN: dict[str, Any] = {"region_weight": 0.0, "recolor": False}
"""The options that switch off what the paper does not have."""


def observed() -> PreparedGraph:
    """Return a calibrated network of 4 bits."""
    return networks.calibrated("edsr", 4, "onnxruntime")


def copy_bounds(prepared: PreparedGraph) -> Bits:
    """Return a copy of every bound."""
    quantizers = prepared.quantizers.items()
    return {name: (q.lower.detach().clone(), q.upper.detach().clone()) for name, q in quantizers}


def moved(before: Bits, after: Bits) -> set[str]:
    """Return the groups whose bounds differ."""
    return {name for name in before if not all(map(torch.equal, before[name], after[name]))}


def paper_loss(prepared: PreparedGraph, images: Tensor) -> tuple[float, float]:
    """Compute equations 6 and 8 in float64, in 8-bit levels, and map by map, undivided by H W C."""
    with torch.no_grad():
        output, maps = prepared.features(images)
        target, target_maps = prepared.float_forward(images)
    pixel = 255 * (output - target).abs().double().mean().item()
    distances: list[float] = []
    for features, targets in zip(maps, target_maps, strict=True):
        for student, teacher in zip(features.double(), targets.double(), strict=True):
            distances.append(((student / student.norm() - teacher / teacher.norm()) ** 2).sum().item())
    return pixel, math.fsum(distances) / len(distances)
