"""A check that a network's output looks like its input, which fails for a wrong input range."""

import logging

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from srptq_plugin.data.metrics import decibels
from srptq_plugin.models.model_record import LoadedModel

logger = logging.getLogger(__name__)
LEAST = 32.0
"""PSNR in dB between an image and its enlargement shrunk again.

Trained networks reach 40 to 58 dB, and at most 30 dB in a wrong range.
"""
PATCHES = 4


def warn_of_range(loaded: LoadedModel, patches: Tensor) -> None:
    """Log a warning if the network's output, shrunk to the size of its input, is far from the input."""
    low, high = loaded.record.input_range
    similarity = decibels(_error(loaded, patches[:PATCHES]), high - low)
    if not similarity >= LEAST:  # so written, NaN warns too
        logger.warning(
            "%s: its output, shrunk to its input's size, is %.1f dB from its input; networks that keep colors have "
            "%.0f or more: if this one does, %g:%g is not the range it was trained with; give its input range",
            loaded.record.name, similarity, LEAST, low, high,
        )  # fmt: skip


def _error(loaded: LoadedModel, images: Tensor) -> float:
    """Return the mean squared difference between input and shrunk output."""
    with torch.no_grad():
        output = torch.cat([loaded.module(image) for image in images.split(1)])  # some networks take one at a time
    # Antialiasing averages the details that only the output has, so they do not count as a difference.
    shrunk = interpolate(output, images.shape[2:], mode="bicubic", antialias=True, align_corners=False)
    return float((shrunk - images).double().square().mean())
