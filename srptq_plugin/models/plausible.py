"""A check that a network's output looks like its input, which fails for a wrong input range."""

import logging
import math

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from srptq_plugin.data.metrics import decibels
from srptq_plugin.models.model_record import LEVELS, UNIT, LoadedModel, Range

logger = logging.getLogger(__name__)
CLEAR = 32.0
"""PSNR in dB between an image and its enlargement shrunk again that needs no second look.

Networks trained for fidelity reach 40 to 58 dB, those that invent textures 17 dB and more.
"""
BETTER = 10.0
"""Decibels by which another range has to be nearer. The right one is 19 or more ahead of a wrong one."""
USUAL: tuple[Range, ...] = (UNIT, LEVELS, (-1.0, 1.0))
PATCHES = 4


def warn_of_range(loaded: LoadedModel, patches: Tensor) -> None:
    """Log a warning if the network's output, shrunk to the size of its input, is nearer to it in another usual range.

    Args:
        loaded: The network.
        patches: Images in its range.
    """
    own = loaded.record.input_range
    images = (patches[:PATCHES] - own[0]) / (own[1] - own[0])
    similarity = _similarity(loaded, images, own)
    if not similarity > -math.inf:
        logger.warning("%s: its output is not finite on the calibration images", loaded.record.name)
        return
    others = {} if similarity >= CLEAR else {ends: _similarity(loaded, images, ends) for ends in USUAL if ends != own}
    others = {ends: other for ends, other in others.items() if not math.isnan(other)}
    best = max(others, key=lambda ends: others[ends], default=own)
    if others and others[best] >= similarity + BETTER:
        logger.warning(
            "%s: its output, shrunk to its input's size, is %.1f dB from its input in the range %g:%g, and %.1f dB in "
            "%g:%g: if it was trained with that, give `input_range=%g:%g`",
            *(loaded.record.name, similarity, *own, others[best], *best, *best),
        )


def _similarity(loaded: LoadedModel, images: Tensor, ends: Range) -> float:
    """Return the PSNR between images of 0 to 1 and the shrunk output, if the network has this range."""
    low, high = ends
    inputs = images * (high - low) + low
    with torch.no_grad():
        output = torch.cat([loaded.module(image) for image in inputs.split(1)])  # some networks take one at a time
    # Antialiasing averages the details that only the output has, so they do not count as a difference.
    shrunk = interpolate(output, inputs.shape[2:], mode="bicubic", antialias=True, align_corners=False)
    return decibels(float((shrunk - inputs).double().square().mean()), high - low)
