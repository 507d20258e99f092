"""Fake quantization and its gradients: to the values, and to the bounds through scale and zero point."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from srptq_plugin.quantization.chunking import iter_chunks
from srptq_plugin.quantization.grid import Bounds, IntGrid, Levels, QParams, along

Gradient = Literal["full", "pact"]
_within: Callable[..., Tensor] = torch.ops.aten.hardtanh_backward.grad_input


def fake_quantize(values: Tensor, qparams: QParams) -> Tensor:
    """Quantize and dequantize; gradients reach the values, the scale and the zero point.

    >>> from srptq_plugin.quantization.grid import project
    >>> fake_quantize(torch.tensor([-2.0, 0.0, 0.4]), project(Bounds.of(-1.0, 1.0), IntGrid(2)))
    tensor([-0.6667,  0.0000,  0.6667])
    """
    return _Rounded.apply(values, qparams.scale, qparams.zero_point, qparams.grid)  # pyright: ignore[reportReturnType]


def rounded(values: Tensor, qparams: QParams) -> Tensor:
    """The level that is nearest to each value."""
    levels, given = Levels(qparams, values), torch.empty_like(values)
    for some, place in _pieces(qparams.grid, values, given):
        levels.real_(levels.clip_(levels.nearest(some, place)))
    return given


class _Rounded(torch.autograd.Function):
    """The nearest level; straight through within the grid, and beyond it a pull on the end that clipped."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, scale: Tensor, zero_point: Tensor, grid: IntGrid) -> Tensor:
        ctx.save_for_backward(values, scale, zero_point)
        ctx.grid = grid
        return rounded(values, QParams(scale, zero_point, grid))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None, None]:
        (gradient,) = gradients
        values, scale, zero_point = ctx.saved_tensors
        qparams, inside = QParams(scale, zero_point, ctx.grid), torch.empty_like(values)
        if not any(ctx.needs_input_grad[1:]):
            _straight_through(qparams, values, gradient, inside)
            return inside, None, None, None
        stretch, pull = _pulls(qparams, values, gradient, inside)
        return inside, stretch / scale, -scale * pull, None


def _straight_through(qparams: QParams, values: Tensor, gradient: Tensor, inside: Tensor) -> None:
    """The gradient within the grid, zero beyond, into `inside`."""
    levels = Levels(qparams, values)
    for some, given, kept in _pieces(qparams.grid, values, gradient, inside):
        _within(given, levels.nearest(some, kept), *levels.ends, grad_input=kept)


def _pulls(qparams: QParams, values: Tensor, gradient: Tensor, inside: Tensor) -> tuple[Tensor, Tensor]:
    """The same; and what pulls on the scale and on the zero point."""
    levels = Levels(qparams, values)
    stretch, pull, scratch = torch.zeros_like(qparams.scale), torch.zeros_like(qparams.scale), None
    for some, given, kept in _pieces(qparams.grid, values, gradient, inside):
        scratch = torch.empty_like(some) if scratch is None else scratch[: len(some)]
        integers = levels.nearest(some, scratch)
        _within(given, integers, *levels.ends, grad_input=kept)
        error = levels.real_(levels.clip_(integers)).sub_(some)
        stretch += _dot_along(error, given, qparams)
        clipped = torch.sub(given, kept, out=scratch)
        stretch += _dot_along(clipped, some, qparams)
        pull += _sum_along(clipped, qparams)
    return stretch, pull


def _pieces(grid: IntGrid, *tensors: Tensor) -> Iterable[tuple[Tensor, ...]]:
    """The same values of each tensor, a piece at a time where one scale is for all."""
    return iter_chunks(*tensors) if grid.channel_axis is None else [tensors]


def _sum_along(values: Tensor, qparams: QParams) -> Tensor:
    """Over all that a scale is for."""
    axis = qparams.grid.channel_axis
    if axis is None:
        return values.sum().reshape(qparams.scale.shape)
    return values.sum([each for each in range(values.ndim) if each != axis])


def _dot_along(left: Tensor, right: Tensor, qparams: QParams) -> Tensor:
    if qparams.grid.channel_axis is None:
        return torch.dot(left.flatten(), right.flatten()).reshape(qparams.scale.shape)
    return _sum_along(left * right, qparams)


def finite(gradient: Tensor) -> Tensor:
    """A gradient without what is not finite.

    A map that quantization made constant has no derivative through a standard deviation, as attention takes it.

    >>> finite(torch.tensor([1.0, float("nan"), float("inf")]))
    tensor([1., 0., 0.])
    """
    return gradient if gradient.sum().isfinite() else gradient.nan_to_num(0.0, 0.0, 0.0)


def fake_quantize_pact(values: Tensor, bounds: Bounds, qparams: QParams) -> Tensor:
    """The same with PACT's gradient: each clipped value pulls the bound that clipped it, nothing else moves a bound."""
    return _ClippedOnly.apply(values, bounds.lower, bounds.upper, qparams.detach())  # pyright: ignore[reportReturnType]


class _ClippedOnly(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, _lower: Tensor, _upper: Tensor, qparams: QParams) -> Tensor:
        ctx.save_for_backward(values, qparams.scale, qparams.zero_point)
        ctx.grid = qparams.grid
        return rounded(values, qparams)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        (gradient,) = gradients
        values, scale, zero_point = ctx.saved_tensors
        qparams = QParams(scale, zero_point, ctx.grid)
        real = qparams.bounds
        lower, upper = (along(end, values, ctx.grid) for end in (real.lower, real.upper))
        below, above = values < lower, values > upper
        pulls = [_sum_along(gradient * side, qparams).double() for side in (below, above)]
        return gradient * ~(below | above), pulls[0], pulls[1], None


def recompute_fn(given: Tensor) -> Callable[[], Tensor] | None:
    """How to round once more what gave this, or none if it is nothing that was rounded for a gradient.

    >>> from srptq_plugin.quantization.grid import project
    >>> given = fake_quantize(torch.ones(2, requires_grad=True), project(Bounds.of(-1.0, 2.0), IntGrid(2)))
    >>> recompute = recompute_fn(given)
    >>> recompute is not None and torch.equal(recompute(), given)
    True
    """
    node: Any = given.grad_fn
    return partial(_again, node) if isinstance(node, _ROUNDING) else None


def _again(node: Any) -> Tensor:
    values, scale, zero_point = node.saved_tensors
    with torch.no_grad():
        return rounded(values, QParams(scale, zero_point, node.grid))


_ROUNDING = tuple(each._backward_cls for each in (_Rounded, _ClippedOnly))  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
