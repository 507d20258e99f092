"""Pair sums in 16 bits: which weights a kernel adds in pairs, and the scales at which no pair can overflow.

x86 processors without VNNI multiply uint8 activations by int8 weights with `vpmaddubsw`. It adds two neighboring
products in a signed 16-bit integer that saturates: 255 * (w1 + w2) overflows once w1 + w2 > 128.
"""

from functools import cache
from math import prod

import torch
from torch import Tensor
from torch.nn.functional import pad

from srptq_plugin.quantization.grid import Bounds, IntGrid, QParams, project, quantize

MARGIN = 1e-6
"""Relative headroom of a raised scale.

Two weights both round up only if their fractions are 1/2 or more, so a real sum below the limit rounds to the limit
at most. The headroom keeps that true in float32, whose relative error is 1e-7.
"""

NEAR = 1e-3
"""Relative distance to the least safe scale within which a scale has no gradient."""


def pair_limit(bits: int | None, weights: IntGrid, activations: IntGrid) -> int | None:
    """Return the largest sum of two weights of one sign that signed integers of `bits` hold, times any activations.

    None if the grid of the weights cannot exceed it, or if `bits` is None.

    >>> weight = IntGrid(8, signed=True, symmetric=True, narrow_range=True)
    >>> pair_limit(16, weight, IntGrid(8)), pair_limit(16, weight, IntGrid(7))
    (128, None)
    """
    if bits is None:
        return None
    largest = (2 ** (bits - 1) - 1) // (2**activations.bits - 1)
    return largest if largest < 2 * max(weights.qmax, -weights.qmin) else None


@cache
def pairings(inputs: int, kernel: tuple[int, ...]) -> tuple[Tensor, ...]:
    """Return the ways in which kernels pair the weights of an output channel, each as [pairs, 2] places among them.

    All of them order weights by tap, then by input channel, and pair them from the first on. With an odd number of
    input channels MLAS and oneDNN's GEMM pair across taps, while oneDNN's convolutions pad each tap. With a single
    one oneDNN on AVX-512 goes down the columns of the kernel, or pads its rows. The place behind the last is padding.

    >>> [places.tolist() for places in pairings(3, (1, 2))]
    [[[0, 2], [4, 1], [3, 5]], [[0, 2], [4, 6], [1, 3], [5, 6]]]
    """
    places = torch.arange(inputs * prod(kernel)).view(inputs, *kernel)
    orders = [by_tap := places.reshape(inputs, -1).T]
    if inputs % 2:
        orders.append(_even(by_tap, places.numel()))
    if inputs == 1 and len(kernel) == 2:  # noqa: PLR2004 - rows and columns
        orders += [places[0].T, _even(places[0], places.numel())]
    return tuple(_even(order.flatten(), places.numel()).view(-1, 2) for order in orders)


def _even(places: Tensor, padding: int) -> Tensor:
    """Append padding along the last axis if its length is odd."""
    return pad(places, (0, places.shape[-1] % 2), value=padding)


def _by_channel(weight: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Return the weights as [output channels, weights and a zero for padding], and how kernels pair them."""
    flat = pad(weight.flatten(1), (0, 1))
    ways = pairings(weight.shape[1], tuple(weight.shape[2:]))
    return flat, tuple(places.to(weight.device) for places in ways)


def _sums(pairs: Tensor) -> Tensor:
    """Return the larger magnitude of what is positive and what is negative in each pair."""
    return torch.maximum(pairs.clamp(min=0).sum(-1), -pairs.clamp(max=0).sum(-1))


def pair_sums(weight: Tensor) -> Tensor:
    """Return the largest magnitude that a pair of weights of one sign adds up to, for each output channel.

    >>> pair_sums(torch.tensor([[100, -90, -20, -30]])).tolist()
    [100]
    """
    flat, ways = _by_channel(weight)
    return torch.cat([_sums(flat[:, places]) for places in ways], dim=1).amax(1)


def fit_(weight: Tensor, qparams: QParams) -> None:
    """Shrink the pairs of a learned weight that its scale cannot hold, in place, so that the scale need not rise.

    Shrinking one pair never makes another larger, so a second way of pairing keeps what the first achieved.
    """
    if qparams.grid.pair_limit is None:
        return
    flat, ways = _by_channel(weight)
    reach = (qparams.scale * qparams.grid.pair_limit / (1 + MARGIN)).reshape(-1, 1)
    for places in ways:
        pairs = flat[:, places]
        flat[:, places] = pairs * (reach / _sums(pairs)).clamp(max=1)[..., None]
    weight.copy_(flat[:, :-1].view_as(weight))


def safe(weight: Tensor, qparams: QParams) -> QParams:
    """Raise the scale of each output channel in which a pair could overflow, by no more than it takes.

    Channels whose integers are safe keep their scale, so calling this twice changes nothing. A scale near its least
    value has no gradient: noisy steps could only raise it.

    >>> grid = IntGrid(8, signed=True, symmetric=True, narrow_range=True, channel_axis=0, pair_limit=128)
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
    least, scale = project(Bounds(-reach, reach), qparams.grid).scale, qparams.scale.detach()
    held = unsafe | (least >= scale * (1 - NEAR))
    scale = torch.where(held, torch.where(unsafe, least, scale), qparams.scale)
    return QParams(scale, qparams.zero_point, qparams.grid)
