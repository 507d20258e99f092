"""Quantizers that compute their range from the current tensor: from each image, or from the current weight."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from srptq_plugin.errors import SrptqError
from srptq_plugin.qat.quantizer_options import LinearOptions
from srptq_plugin.quantization.grid import Bounds, IntGrid, project
from srptq_plugin.quantization.quantizer import BoundedFakeQuantize, fake_quantize


class _StraightThrough(torch.autograd.Function):
    """Returns its second argument, and passes the gradient to the first."""

    @staticmethod
    def forward(_ctx: Any, _values: Tensor, rounded: Tensor) -> Tensor:
        return rounded.clone()  # returning the input itself has a special meaning to autograd

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:  # noqa: ARG004
        return gradients[0], None


def straight_through(values: Tensor, rounded: Tensor) -> Tensor:
    """Return the rounded values, bit for bit, with the gradient of the identity, also for clipped values.

    The usual `values + (rounded - values).detach()` would round once more.

    >>> values = torch.tensor([0.4, 7.0], requires_grad=True)
    >>> straight_through(values, torch.tensor([0.0, 1.0])).sum().backward()
    >>> values.grad
    tensor([1., 1.])
    """
    return _StraightThrough.apply(values, rounded)  # pyright: ignore[reportReturnType] - a tensor


def by_extremes(values: Tensor, grid: IntGrid) -> Tensor:
    """Quantize each image between its own extremes, straight through.

    >>> by_extremes(torch.tensor([[0.0, 0.4, 1.0], [0.0, 4.4, 10.0]]), IntGrid(1, float_zero_point=True)).tolist()
    [[0.0, 0.0, 1.0], [0.0, 0.0, 10.0]]
    """
    rows = values.detach().flatten(1)
    # One range for each image: the batch axis takes the place of a channel axis.
    qparams = project(Bounds.of(rows.amin(1), rows.amax(1)), replace(grid, channel_axis=0))
    return straight_through(values, fake_quantize(values.detach(), qparams))


class DynamicFakeQuantize(BoundedFakeQuantize):
    """A quantizer whose bounds do not learn: a subclass computes them from the tensor.

    The bounds of a weight are stored, so that a table holds them. The bounds of an image are not.
    """

    dynamic = True
    learns = False

    def __init__(self, *args: Any, **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        if self.constant and self.options != self.options_type():
            changed = next(name for name, value in self.options if value != getattr(self.options_type(), name))
            raise SrptqError(f"{changed} is an option of activations; leave it out, and set per_channel for weights")

    def compute_weight_bounds(self, weight: Tensor) -> Bounds:
        """Return the bounds of a weight."""
        raise NotImplementedError

    def quantize_images(self, values: Tensor) -> Tensor:
        """Fake-quantize a feature map, each image by itself."""
        raise NotImplementedError

    def refresh(self, weight: Tensor) -> None:
        """Set the bounds by the current weight."""
        self.set_bounds(self.compute_weight_bounds(weight.detach()))

    def freeze(self) -> None:
        """Do nothing. Parameters cannot be cached: the weight may learn, and images differ."""

    def quantize_tensor(self, values: Tensor) -> Tensor:
        """Fake-quantize a feature map image by image, or a weight between its current bounds."""
        if not self.constant:
            return self.quantize_images(values)
        self.refresh(values)
        return straight_through(values, fake_quantize(values.detach(), self.qparams()))


def channel_axes(values: Tensor, axis: int | None) -> list[int]:
    """Return the axes of a weight that share one bound: all but the channel axis.

    >>> channel_axes(torch.zeros(8, 3, 3, 3), 0), channel_axes(torch.zeros(8, 3), None)
    ([1, 2, 3], [0, 1])
    """
    return [n for n in range(values.ndim) if n != axis]


class LinearFakeQuantize(DynamicFakeQuantize):
    """Quantizes between the extremes of each image, or channel, and of each weight: LinQ, the baseline of DAQ's paper.

    >>> quantizer = LinearFakeQuantize("input", IntGrid(1, float_zero_point=True))
    >>> quantizer.quantize_images(torch.tensor([[0.0, 0.4, 1.0], [0.0, 4.4, 10.0]])).tolist()
    [[0.0, 0.0, 1.0], [0.0, 0.0, 10.0]]
    """

    options_type = LinearOptions

    def compute_weight_bounds(self, weight: Tensor) -> Bounds:
        """Return the extremes of a weight."""
        axes = channel_axes(weight, self.grid.channel_axis)
        return Bounds.of(weight.amin(axes), weight.amax(axes))

    def quantize_images(self, values: Tensor) -> Tensor:
        """Fake-quantize each image, or each of its channels, between its extremes."""
        if self.options.granularity == "layer":
            return by_extremes(values, self.grid)
        return by_extremes(values.flatten(0, 1), self.grid).reshape(values.shape)
