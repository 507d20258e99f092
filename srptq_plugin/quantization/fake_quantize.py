"""Fake quantization and its gradients: to the values, and through scale and zero point to the bounds."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from srptq_plugin.quantization.chunking import iter_chunks
from srptq_plugin.quantization.grid import Bounds, IntGrid, Levels, QParams, along

Gradient = Literal["full", "pact"]

# A masked copy in one pass, without a tensor for the mask: `_copy_within(source, x, low, high, grad_input=out)` writes
# `source` to `out` where low < x < high, and 0 elsewhere. The backward of hardtanh is the only kernel that does this.
# It works value by value, so `out` may be `x` itself.
_copy_within: Callable[..., Tensor] = torch.ops.aten.hardtanh_backward.grad_input


def fake_quantize(values: Tensor, qparams: QParams) -> Tensor:
    """Quantize and dequantize, with gradients to the values, the scale and the zero point.

    >>> from srptq_plugin.quantization.grid import project
    >>> fake_quantize(torch.tensor([-2.0, 0.0, 0.4]), project(Bounds.of(-1.0, 1.0), IntGrid(2)))
    tensor([-0.6667,  0.0000,  0.6667])
    """
    return _Rounded.apply(values, qparams.scale, qparams.zero_point, qparams.grid)  # pyright: ignore[reportReturnType]


def fake_quantize_pact(values: Tensor, bounds: Bounds, qparams: QParams) -> Tensor:
    """Quantize and dequantize with PACT's gradient: only clipped values move a bound, each the one that clipped it."""
    return _ClippedOnly.apply(values, bounds.lower, bounds.upper, qparams.detach())  # pyright: ignore[reportReturnType]


def round_to_levels(values: Tensor, qparams: QParams) -> Tensor:
    """Return the level nearest to each value, without a gradient."""
    levels, out = Levels(qparams, values), torch.empty_like(values)
    for chunk, out_chunk in _chunks(qparams.grid, values, out):
        levels.real_(levels.clip_(levels.nearest(chunk, out_chunk)))
    return out


def finite(gradient: Tensor) -> Tensor:
    """Return a gradient with zeros in place of NaN and infinity.

    A feature map that quantization made constant has no derivative through a standard deviation, as attention takes it.

    >>> finite(torch.tensor([1.0, float("nan"), float("inf")]))
    tensor([1., 0., 0.])
    """
    # The sum is finite only if every value is. One reduction is cheaper than a mask, and almost always enough.
    return gradient if gradient.sum().isfinite() else gradient.nan_to_num(0.0, 0.0, 0.0)


def recompute_fn(rounded: Tensor) -> Callable[[], Tensor] | None:
    """Return a function that computes a fake-quantized tensor again, bit for bit, or None for any other tensor.

    >>> from srptq_plugin.quantization.grid import project
    >>> rounded = fake_quantize(torch.ones(2, requires_grad=True), project(Bounds.of(-1.0, 2.0), IntGrid(2)))
    >>> recompute = recompute_fn(rounded)
    >>> recompute is not None and torch.equal(recompute(), rounded)
    True
    """
    node: Any = rounded.grad_fn
    return partial(_round_again, node) if isinstance(node, _NODES) else None


def _round_again(node: Any) -> Tensor:
    values, scale, zero_point = node.saved_tensors
    with torch.no_grad():
        return round_to_levels(values, QParams(scale, zero_point, node.grid))


class _Rounded(torch.autograd.Function):
    """Rounding with the gradient of LSQ+: straight through within the grid, and clipped values move the bounds.

    With n = clip(round(x / s) + z), Q(x) = (n - z) * s has these derivatives, rounding being straight through:

        within:   dQ/dx = 1,  dQ/ds = (Q - x) / s,  dQ/dz = 0
        clipped:  dQ/dx = 0,  dQ/ds = Q / s,        dQ/dz = -s
    """

    @staticmethod
    def forward(ctx: Any, values: Tensor, scale: Tensor, zero_point: Tensor, grid: IntGrid) -> Tensor:
        ctx.save_for_backward(values, scale, zero_point)
        ctx.grid = grid
        return round_to_levels(values, QParams(scale, zero_point, grid))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None, None]:
        (gradient,) = gradients
        values, scale, zero_point = ctx.saved_tensors
        qparams, by_values = QParams(scale, zero_point, ctx.grid), torch.empty_like(values)
        if not any(ctx.needs_input_grad[1:]):
            _write_straight_through(qparams, values, gradient, by_values)
            return by_values, None, None, None
        stretch, pull = _write_and_sum(qparams, values, gradient, by_values)
        return by_values, stretch / scale, -scale * pull, None


def _write_straight_through(qparams: QParams, values: Tensor, gradient: Tensor, by_values: Tensor) -> None:
    """Write the gradient to `by_values` where values are within the grid, and zero beyond."""
    levels = Levels(qparams, values)
    for chunk, grad, out in _chunks(qparams.grid, values, gradient, by_values):
        _copy_within(grad, levels.nearest(chunk, out), *levels.ends, grad_input=out)


def _write_and_sum(qparams: QParams, values: Tensor, gradient: Tensor, by_values: Tensor) -> tuple[Tensor, Tensor]:
    """Write the gradient to `by_values` as above. Return s * dL/ds and -dL/dz / s, for each scale.

    Both cases of dQ/ds are one formula: s * dQ/ds = (Q - x) + (x if clipped). So a dot product with the error and one
    with the clipped values, in chunks that stay in the cache, take the place of masks over the whole tensor.
    """
    levels = Levels(qparams, values)
    stretch, pull, scratch = torch.zeros_like(qparams.scale), torch.zeros_like(qparams.scale), None
    for chunk, grad, out in _chunks(qparams.grid, values, gradient, by_values):
        # One buffer for all chunks: the integers, then Q, then Q - x, then the gradient of the clipped values.
        scratch = torch.empty_like(chunk) if scratch is None else scratch[: len(chunk)]
        integers = levels.nearest(chunk, scratch)
        _copy_within(grad, integers, *levels.ends, grad_input=out)
        error = levels.real_(levels.clip_(integers)).sub_(chunk)
        stretch += _dot_along(error, grad, qparams)
        clipped = torch.sub(grad, out, out=scratch)  # exactly 0 within, where `out` is a copy
        stretch += _dot_along(clipped, chunk, qparams)
        pull += _sum_along(clipped, qparams)
    return stretch, pull


class _ClippedOnly(torch.autograd.Function):
    """Rounding with PACT's gradient."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, _lower: Tensor, _upper: Tensor, qparams: QParams) -> Tensor:
        ctx.save_for_backward(values, qparams.scale, qparams.zero_point)
        ctx.grid = qparams.grid
        return round_to_levels(values, qparams)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        (gradient,) = gradients
        values, scale, zero_point = ctx.saved_tensors
        qparams = QParams(scale, zero_point, ctx.grid)
        # Values are clipped at the bounds that the grid represents, not at the learned ones before projection.
        bounds = qparams.bounds
        below, above = values < along(bounds.lower, values, ctx.grid), values > along(bounds.upper, values, ctx.grid)
        by_lower, by_upper = (_sum_along(gradient * side, qparams).double() for side in (below, above))
        return gradient * ~(below | above), by_lower, by_upper, None


def _chunks(grid: IntGrid, *tensors: Tensor) -> Iterable[tuple[Tensor, ...]]:
    """Return chunks of tensors of one shape. Flat chunks lose the channel axis, so with one they stay whole."""
    return iter_chunks(*tensors) if grid.channel_axis is None else [tensors]


def _sum_along(values: Tensor, qparams: QParams) -> Tensor:
    """Sum over all values that share a scale."""
    axis = qparams.grid.channel_axis
    if axis is None:
        return values.sum().reshape(qparams.scale.shape)
    return values.sum([n for n in range(values.ndim) if n != axis])


def _dot_along(left: Tensor, right: Tensor, qparams: QParams) -> Tensor:
    """Sum products over all values that share a scale."""
    if qparams.grid.channel_axis is None:
        return torch.dot(left.flatten(), right.flatten()).reshape(qparams.scale.shape)
    return _sum_along(left * right, qparams)


# The types of `grad_fn` behind the functions of this file. torch makes one for each Function, without a public name.
_NODES = (_Rounded._backward_cls, _ClippedOnly._backward_cls)  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
