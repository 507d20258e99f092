"""PAMS, parameterized max scale (Li et al., ECCV 2020): one learnable maximum a layer, clipping on both sides alike."""

import torch
from torch import Tensor

from srptq_plugin.qat.symmetric import MirroredFakeQuantize

TINY = 1e-14


class PamsFakeQuantize(MirroredFakeQuantize):
    """Clips to [-alpha, alpha]; alpha is `upper`, learns from clipped values, and starts from max(|l|, |u|).

    >>> from srptq_plugin.quantization.grid import Bounds, IntGrid
    >>> quantizer = PamsFakeQuantize("input", IntGrid(8, signed=True, symmetric=True, narrow_range=True))
    >>> quantizer.set_bounds(Bounds.of(-0.5, 2.0))
    >>> quantizer.bounds
    Bounds(-2, 2)
    """

    gradient = "pact"


def transfer_loss(features: Tensor, target: Tensor) -> Tensor:
    """Structured knowledge transfer: the distance of two maps' energies over space, each divided by its norm.

    >>> transfer_loss(torch.ones(1, 2, 2, 2), 3 * torch.ones(1, 2, 2, 2)).item()
    0.0
    """
    one, other = (_energy(each) for each in (features, target))
    return (one - other).square().sum(1).add(TINY).sqrt().mean() - TINY**0.5


def _energy(features: Tensor) -> Tensor:
    """The sum of squares over channels, flat, of unit norm."""
    return torch.nn.functional.normalize(features.square().sum(1).flatten(1), dim=1, eps=1e-30)
