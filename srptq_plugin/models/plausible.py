"""Whether a network's output looks like its input: a wrong input range shows there."""

import logging

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from srptq_plugin.data.metrics import decibels
from srptq_plugin.models.model_record import LoadedModel

logger = logging.getLogger(__name__)
LEAST = 32.0
"""dB between an image and its enlargement shrunk again: trained networks have 40 to 58, in a wrong range 30 at most."""
SEEN = 4


def warn_of_range(loaded: LoadedModel, patches: Tensor) -> None:
    """Warn once if what the network draws, shrunk to the size of its input, is far from that."""
    low, high = loaded.record.input_range
    found = decibels(_error(loaded, patches[:SEEN]), high - low)
    if not found >= LEAST:
        logger.warning(
            "%s: its output, shrunk to its input's size, is %.1f dB from its input; networks that keep colors have "
            "%.0f or more: if this one does, %g:%g is not the range it was trained with; give `input_range`",
            loaded.record.name, found, LEAST, low, high,
        )  # fmt: skip


def _error(loaded: LoadedModel, images: Tensor) -> float:
    """Return the mean squared difference, in which details that only the output has do not count."""
    with torch.no_grad():
        output = torch.cat([loaded.module(image) for image in images.split(1)])  # some networks take one at a time
    shrunk = interpolate(output, images.shape[2:], mode="bicubic", antialias=True, align_corners=False)
    return float((shrunk - images).double().square().mean())
