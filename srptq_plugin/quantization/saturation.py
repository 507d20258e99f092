"""Pair sums in 16 bits: the weights that a kernel adds in pairs, and the scales at which no pair can overflow.

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

Two weights both round up only if their fractions are 1/2 or more. So a real sum below the limit rounds to the limit at
most. The headroom keeps that true in float32, where the relative error is 1e-7.
"""

NEAR = 1e-3
"""Relative distance from the least safe scale, within which a scale has no gradient."""


def pair_limit(bits: int | None, weights: IntGrid, activations: IntGrid) -> int | None:
    """Return the largest safe sum of two weights of one sign, or None if there is nothing to limit.

    Args:
        bits: the bits of the integers that hold a sum of two products. None: they hold any.
        weights: the grid of the weights. If it cannot exceed the limit, the result is None.
        activations: the grid of the activations, taken as unsigned.

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
    """Return the ways in which kernels pair the weights of an output channel, each as flat indices [pairs, 2].

    All order weights by tap, then by input channel, and pair them from the first on. With an odd number of input
    channels MLAS and oneDNN's GEMM pair across taps, and oneDNN's convolutions pad each tap. With a single input
    channel oneDNN on AVX-512 goes down the columns of the kernel, or pads its rows. The index past the end is padding.

    Args:
        inputs: the input channels.
        kernel: the size of the kernel.

    >>> [pairs.tolist() for pairs in pairings(3, (1, 2))]
    [[[0, 2], [4, 1], [3, 5]], [[0, 2], [4, 6], [1, 3], [5, 6]]]
    """
    indices = torch.arange(inputs * prod(kernel)).view(inputs, *kernel)
    padding = indices.numel()
    by_tap = indices.reshape(inputs, -1).T
    orders = [by_tap]
    if inputs % 2:
        orders.append(_pad_to_even(by_tap, padding))
    if inputs == 1 and len(kernel) == 2:  # noqa: PLR2004 - rows and columns
        orders += [indices[0].T, _pad_to_even(indices[0], padding)]
    return tuple(_pad_to_even(order.flatten(), padding).view(-1, 2) for order in orders)


def _pad_to_even(indices: Tensor, padding: int) -> Tensor:
    return pad(indices, (0, indices.shape[-1] % 2), value=padding)


def _outputs_first(weight: Tensor, grid: IntGrid) -> Tensor:
    """Return a view with the output channels first, or the weight itself if one scale holds all of it."""
    return weight.transpose(0, grid.channel_axis or 0)


def _by_channel(weight: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Return the weights as [output channels, weights and a zero for padding], and how kernels pair them."""
    flat = pad(weight.flatten(1), (0, 1))
    ways = pairings(weight.shape[1], tuple(weight.shape[2:]))
    return flat, tuple(indices.to(weight.device) for indices in ways)


def _pair_magnitudes(pairs: Tensor) -> Tensor:
    """Return the magnitude of the positive sum or of the negative sum of each pair, the larger one.

    Activations are unsigned and may be 0. So weights of opposite signs do not help each other.
    """
    return torch.maximum(pairs.clamp(min=0).sum(-1), -pairs.clamp(max=0).sum(-1))


def pair_sums(weight: Tensor) -> Tensor:
    """Return the largest magnitude that a pair of weights of one sign adds up to, for each output channel.

    Output channels come first, input channels second. A transposed convolution's weight is transposed before.

    >>> pair_sums(torch.tensor([[100, -90, -20, -30]])).tolist()
    [100]
    """
    flat, ways = _by_channel(weight)
    return torch.cat([_pair_magnitudes(flat[:, indices]) for indices in ways], dim=1).amax(1)


def fit_(weight: Tensor, qparams: QParams) -> None:
    """Shrink the pairs of a learned weight that its scale cannot hold, in place, so that the scale need not rise."""
    if qparams.grid.pair_limit is None:
        return
    ordered = _outputs_first(weight, qparams.grid)
    flat, ways = _by_channel(ordered)
    largest = (qparams.scale * qparams.grid.pair_limit / (1 + MARGIN)).reshape(-1, 1)
    # Factors are at most 1, so shrinking a pair makes no other larger: a later way keeps the pairs of an earlier safe.
    for indices in ways:
        pairs = flat[:, indices]
        flat[:, indices] = pairs * (largest / _pair_magnitudes(pairs)).clamp(max=1)[..., None]
    ordered.copy_(flat[:, :-1].view(ordered.shape))


def safe(weight: Tensor, qparams: QParams) -> QParams:
    """Raise the scale of each output channel in which a pair could overflow, by no more than it takes.

    Channels with safe integers keep their scale, so calling this twice changes nothing.

    >>> grid = IntGrid(8, signed=True, symmetric=True, narrow_range=True, channel_axis=0, pair_limit=128)
    >>> weight = torch.tensor([[1.0, 0.5], [1.0, -1.0]])
    >>> before = project(Bounds.of(-torch.ones(2), torch.ones(2)), grid)
    >>> quantize(weight, before).tolist(), quantize(weight, safe(weight, before)).tolist()
    ([[127, 64], [127, -127]], [[85, 43], [127, -127]])
    """
    limit = qparams.grid.pair_limit
    if limit is None:
        return qparams
    weight, integers = (_outputs_first(w, qparams.grid) for w in (weight.detach(), quantize(weight, qparams)))
    sums, unsafe = pair_sums(weight.double()), pair_sums(integers) > limit
    if qparams.scale.ndim == 0:
        sums, unsafe = sums.max(), unsafe.any()
    # Project the least safe scale, so that it is one that the grid offers: a power of two, for example.
    reach = sums / limit * (1 + MARGIN) * qparams.grid.qmax
    least, scale = project(Bounds(-reach, reach), qparams.grid).scale, qparams.scale.detach()
    # A scale at or near its least safe value gets no gradient. Noisy steps could move it in one direction only: up.
    held = unsafe | (least >= scale * (1 - NEAR))
    scale = torch.where(held, torch.where(unsafe, least, scale), qparams.scale)
    return QParams(scale, qparams.zero_point, qparams.grid)
