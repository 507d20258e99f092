"""An emulation of int8 convolutions of x86 processors without VNNI, which add pairs of products in saturating int16.

The kernels multiply raw unsigned activations by signed weights with `vpmaddubsw`.
That instruction adds two neighboring products and clips the sum to int16.
All later sums are exact in int32, and the zero point's share is subtracted exactly.
It was written from probes of the runtimes, agrees with them on a thousand shapes, and shares no code with the package.
"""

from typing import Any, Literal

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

Integers = NDArray[np.integer[Any]]
Order = Literal["taps", "flat", "columns", "rows", "exact"]
ORDERS: tuple[Order, ...] = ("taps", "flat", "columns", "rows")
"""`taps`: oneDNN's convolutions. `flat`: MLAS, and oneDNN's GEMM. The others: oneDNN on AVX-512, one input channel."""
INT16 = np.iinfo(np.int16)
QUAD = 4
"""The channels that a kernel reads at once in the order of taps."""


def saturating_conv(
    image: Integers,
    weights: Integers,
    order: Order,
    *,
    zero_point: int = 0,
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
    groups: int = 1,
) -> Integers:
    """Convolve [N, C, H, W] uint8 with [O, C/groups, kh, kw] int8, and return int32 sums of (a - zero point) * w.

    Padding is read like any other value, as the zero point.
    """
    raw = _patches(_bordered(image.astype(np.int64), padding, zero_point), weights.shape[2:], stride, dilation)
    grouped = raw.reshape(len(raw), groups, -1, *raw.shape[2:])
    kernels = weights.astype(np.int64).reshape(groups, -1, *weights.shape[1:])
    products = pair_sums(arranged(grouped, order), arranged(kernels, order))
    shares = zero_point * kernels.sum((2, 3, 4))[None, :, :, None, None]
    return (products - shares).reshape(len(image), len(weights), *products.shape[-2:])


def arranged(values: Integers, order: Order) -> Integers:
    """Put [.., .., channels, kh, kw, ...] in the kernel's order, an even number of them along axis 2.

    'taps' goes tap by tap, each with its channels padded to a multiple of four.
    'flat' goes tap by tap without such padding, so an odd count of channels pairs the last with the next tap's first.
    'columns' is 'flat' down the kernel's columns, and 'rows' is 'flat' within each row of the kernel.
    'exact' leaves every product alone.
    """
    values = np.moveaxis(values, 2, 4)
    if order == "columns":
        values = values.swapaxes(2, 3)
    if order == "rows":
        values = values.reshape(*values.shape[:3], 1, -1, *values.shape[5:])
    values = _padded(values, 4, {"taps": QUAD, "rows": QUAD}.get(order, 1))
    flat = values.reshape(*values.shape[:2], -1, *values.shape[5:])
    return _spread(flat) if order == "exact" else _padded(flat, 2, 2)


def pair_sums(activations: Integers, weights: Integers) -> Integers:
    """Add [N, G, K, H, W] times [G, O, K] in pairs that saturate, and the pairs exactly."""
    (n, g, _, h, w), out = activations.shape, weights.shape[1]
    total = np.zeros((n, g, out, h, w), np.int64)
    for first in range(0, weights.shape[2], 2):
        left, right = (activations[:, :, None, k] * weights[None, :, :, k, None, None] for k in (first, first + 1))
        total += np.clip(left + right, INT16.min, INT16.max)
    return total


def overflows(weights: Integers, largest: int = 255) -> bool:
    """Return True if some activations from 0 to `largest` overflow a pair of [O, C, kh, kw] in any order.

    The worst activations are `largest` wherever the weight has one sign, and 0 elsewhere.
    """
    kernels = weights.astype(np.int64)[None]
    pairs = (_pairs(kernels, order) for order in ORDERS if order in ("taps", "flat") or weights.shape[1] == 1)
    return any(bool((largest * np.maximum(sign * p, 0)).sum(-1).max() > INT16.max) for p in pairs for sign in (1, -1))


def _pairs(kernels: Integers, order: Order) -> Integers:
    flat = arranged(kernels, order)
    return flat.reshape(*flat.shape[:2], -1, 2)


def _bordered(image: Integers, padding: int, value: int) -> Integers:
    """Surround [N, C, H, W] with a value."""
    return np.pad(image, ((0, 0), (0, 0), (padding, padding), (padding, padding)), constant_values=value)


def _patches(image: Integers, size: tuple[int, ...], stride: int, dilation: int) -> Integers:
    """Cut [N, C, kh, kw, H', W'] patches from [N, C, H, W]."""
    reach = [dilation * (taps - 1) + 1 for taps in size]
    windows = sliding_window_view(image, reach, (2, 3))[:, :, ::stride, ::stride, ::dilation, ::dilation]
    return windows.transpose(0, 1, 4, 5, 2, 3)


def _spread(values: Integers) -> Integers:
    """Put a zero behind each value along axis 2."""
    pairs = np.stack([values, np.zeros_like(values)], 3)
    return pairs.reshape(*values.shape[:2], -1, *values.shape[3:])


def _padded(values: Integers, axis: int, multiple: int) -> Integers:
    """Append zeros up to a multiple along an axis."""
    missing = -values.shape[axis] % multiple
    return np.pad(values, [(0, missing if n == axis else 0) for n in range(values.ndim)])
