"""Pair sums in 16 bits: which weights a kernel adds in pairs, and the scales at which no pair can overflow.

x86 processors without VNNI multiply uint8 activations by int8 weights with `vpmaddubsw`. It adds two neighboring
products in a signed 16-bit integer that saturates: 255 * (w1 + w2) overflows once w1 + w2 > 128.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from srptq_plugin.grid import Bounds, IntGrid, QParams, project, quantize

MARGIN = 1e-6
"""Relative headroom of a raised scale.

Two weights both round up only if their fractions are 1/2 or more, so a real sum below the limit rounds to the limit
at most. The headroom keeps that true in float32, whose relative error is 1e-7.
"""


@dataclass(frozen=True)
class PairSums:
    """Kernels that add products in pairs, in signed integers of `bits` that saturate."""

    bits: int

    def limit(self, weights: IntGrid, activations: IntGrid) -> int | None:
        """Return the largest safe sum of two weights of one sign, or None if the grid cannot exceed it.

        >>> weight = IntGrid(8, signed=True, symmetric=True, narrow=True)
        >>> PairSums(16).limit(weight, IntGrid(8)), PairSums(16).limit(weight, IntGrid(7))
        (128, None)
        """
        largest = (2 ** (self.bits - 1) - 1) // (2**activations.bits - 1)
        return largest if largest < 2 * max(weights.qmax, -weights.qmin) else None


def neighbors(weight: Tensor) -> Tensor:
    """Return the weights that kernels add in pairs, as [output channels, pairs, 2].

    Kernels order the weights of an output channel by tap, then by input channel, and pair them from the first on.
    With an odd number of input channels some pair across taps and others pad each tap, so both kinds are returned.

    >>> neighbors(torch.arange(6.0).reshape(1, 3, 1, 2)).tolist()[0][:3]
    [[0.0, 2.0], [4.0, 1.0], [3.0, 5.0]]
    """
    taps = weight.reshape(*weight.shape[:2], -1).transpose(1, 2)
    orders = [taps, _even(taps)] if taps.shape[2] % 2 else [taps]
    return torch.cat([_even(order.flatten(1)).unflatten(1, (-1, 2)) for order in orders], dim=1)


def _even(values: Tensor) -> Tensor:
    """Append a zero along the last axis if its length is odd."""
    return pad(values, (0, values.shape[-1] % 2))


def pair_sums(weight: Tensor) -> Tensor:
    """Return the largest magnitude that a pair of weights of one sign adds up to, for each output channel.

    >>> pair_sums(torch.tensor([[100, -90, -20, -30]])).tolist()
    [100]
    """
    pairs = neighbors(weight)
    return torch.maximum(pairs.clamp(min=0).sum(2), -pairs.clamp(max=0).sum(2)).amax(1)


def safe(weight: Tensor, qparams: QParams) -> QParams:
    """Raise the scale of each output channel in which a pair could overflow, by no more than it takes.

    Channels whose integers are safe keep their scale, so calling this twice changes nothing.

    >>> grid = IntGrid(8, signed=True, symmetric=True, narrow=True, axis=0, pair_limit=128)
    >>> weight = torch.tensor([[1.0, 0.5], [1.0, -1.0]])
    >>> before = project(Bounds.of(-torch.ones(2), torch.ones(2)), grid)
    >>> quantize(weight, before).tolist(), quantize(weight, safe(weight, before)).tolist()
    ([[127, 64], [127, -127]], [[85, 43], [127, -127]])
    """
    limit = qparams.grid.pair_limit
    if limit is None:
        return qparams
    weight = weight.detach()
    sums, unsafe = pair_sums(weight.double()), pair_sums(quantize(weight, qparams)) > limit
    if qparams.scale.ndim == 0:
        sums, unsafe = sums.max(), unsafe.any()
    reach = sums / limit * (1 + MARGIN) * qparams.grid.qmax
    raised = project(Bounds(-reach, reach), qparams.grid)
    return QParams(torch.where(unsafe, raised.scale, qparams.scale), qparams.zero_point, qparams.grid)
