"""PAMS, parameterized max scale (Li et al., ECCV 2020): one learnable maximum for each layer, on both sides."""

import torch
from torch import Tensor

from srptq_plugin.qat.symmetric import MirroredFakeQuantize

TINY = 1e-14
"""Added to a squared distance of energies."""


class PamsFakeQuantize(MirroredFakeQuantize):
    """Clips to [-alpha, alpha]. Alpha is `upper`, learns from clipped values, and starts from max(|l|, |u|).

    >>> from srptq_plugin.quantization.grid import Bounds, IntGrid
    >>> quantizer = PamsFakeQuantize("input", IntGrid(8, signed=True, symmetric=True, narrow_range=True))
    >>> quantizer.set_bounds(Bounds.of(-0.5, 2.0))
    >>> quantizer.bounds
    Bounds(-2, 2)
    """

    gradient = "pact"


def transfer_loss(features: Tensor, target: Tensor) -> Tensor:
    """Return the loss of structured knowledge transfer: the distance of two maps' spatial energies of unit norm.

    >>> transfer_loss(torch.ones(1, 2, 2, 2), 3 * torch.ones(1, 2, 2, 2)).item()
    0.0
    """
    # The gradient of a square root is infinite at 0, where a training may start: TINY keeps it finite.
    squared = (_energy(features) - _energy(target)).square().sum(1)
    return squared.add(TINY).sqrt().mean() - TINY**0.5


def _energy(features: Tensor) -> Tensor:
    """Return the sum of squares over channels as [N, pixels], of unit norm for each image."""
    return torch.nn.functional.normalize(features.square().sum(1).flatten(1), dim=1, eps=1e-30)
