"""Quantizers that find their range from the tensor at hand: of each image anew, of a weight as it is by now."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from srptq_plugin.quantization.grid import Bounds, IntGrid, project
from srptq_plugin.quantization.quantizer import BoundedFakeQuantize, fake_quantize


class _StraightThrough(torch.autograd.Function):
    """Gives what was rounded; the gradient is that of what was not."""

    @staticmethod
    def forward(_ctx: Any, _values: Tensor, rounded: Tensor) -> Tensor:
        return rounded.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:  # noqa: ARG004
        return gradients[0], None


def straight_through(values: Tensor, rounded: Tensor) -> Tensor:
    """The rounded values, bit for bit, with the gradient of an identity: clipped or not.

    >>> values = torch.tensor([0.4, 7.0], requires_grad=True)
    >>> straight_through(values, torch.tensor([0.0, 1.0])).sum().backward()
    >>> values.grad
    tensor([1., 1.])
    """
    return _StraightThrough.apply(values, rounded)  # pyright: ignore[reportReturnType] - a tensor


def by_extremes(values: Tensor, grid: IntGrid) -> Tensor:
    """Each image rounded within its own extremes, straight through.

    >>> by_extremes(torch.tensor([[0.0, 0.4, 1.0], [0.0, 4.4, 10.0]]), IntGrid(1, float_zero_point=True)).tolist()
    [[0.0, 0.0, 1.0], [0.0, 0.0, 10.0]]
    """
    rows = values.detach().flatten(1)
    qparams = project(Bounds.of(rows.amin(1), rows.amax(1)), replace(grid, channel_axis=0))
    return straight_through(values, fake_quantize(values.detach(), qparams))


class DynamicFakeQuantize(BoundedFakeQuantize):
    """One whose bounds do not learn: a subclass computes them from the tensor.

    Those of a weight are kept, so that a table holds them; those of an image are not.
    """

    dynamic = True
    learns = False

    def of_weight(self, weight: Tensor) -> Bounds:
        """The bounds of a weight."""
        raise NotImplementedError

    def of_images(self, values: Tensor) -> Tensor:
        """A feature map, quantized image by image."""
        raise NotImplementedError

    def refresh(self, weight: Tensor) -> None:
        """Take the bounds of a weight as it is now."""
        self.set_bounds(self.of_weight(weight.detach()))

    def freeze(self) -> None:
        """Nothing to keep: the weight may learn, and images differ."""

    def quantize_tensor(self, values: Tensor) -> Tensor:
        if not self.constant:
            return self.of_images(values)
        self.refresh(values)
        return straight_through(values, fake_quantize(values.detach(), self.qparams()))


def channel_axes(values: Tensor, axis: int | None) -> list[int]:
    """The axes of a weight over which one bound reaches.

    >>> channel_axes(torch.zeros(8, 3, 3, 3), 0), channel_axes(torch.zeros(8, 3), None)
    ([1, 2, 3], [0, 1])
    """
    return [each for each in range(values.ndim) if each != axis]


class LinearFakeQuantize(DynamicFakeQuantize):
    """Between the extremes of each image, and of each weight: what the DAQ paper compares with, as LinQ.

    >>> quantizer = LinearFakeQuantize("input", IntGrid(1, float_zero_point=True))
    >>> quantizer.of_images(torch.tensor([[0.0, 0.4, 1.0], [0.0, 4.4, 10.0]])).tolist()
    [[0.0, 0.0, 1.0], [0.0, 0.0, 10.0]]
    """

    def of_weight(self, weight: Tensor) -> Bounds:
        """Its extremes."""
        axes = channel_axes(weight, self.grid.channel_axis)
        return Bounds.of(weight.amin(axes), weight.amax(axes))

    def of_images(self, values: Tensor) -> Tensor:
        """Each within its extremes."""
        return by_extremes(values, self.grid)
