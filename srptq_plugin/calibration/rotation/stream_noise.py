"""The noise that rounding puts into the image, as a function of the matrices of streams.

With R the matrix of a stream, x its channels and S the second moments of the image's gradients:

    activations   step^2 / 12 x trace(R^-T S R^-1)            step from the widest channel of R x
    weights       step^2 / 12 x diagonal(R^-T S R^-1) x E     step from the largest |w| of each output channel

E is by how much the inputs of a rotated weight have grown: trace(R C R^T) / trace(C), with C their second moments.
"""

import math
from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Self

import torch
from torch import Tensor

from srptq_plugin.calibration.equalization.noise import smooth_maximum, to_logs
from srptq_plugin.calibration.equalization.rounding_noise import by_channel
from srptq_plugin.calibration.rotation.streams import Layout, Matrices, Streams, combine, streams_of
from srptq_plugin.planning.plan import Plan, Site
from srptq_plugin.planning.prepared_graph import PreparedGraph
from srptq_plugin.quantization.grid import IntGrid
from srptq_plugin.reconstruction.sensitivity import iter_pulls

DRAWS = 2
"""The number of random sign images for each batch."""
PIXELS = 1024
"""About how many pixels of each feature map give the range of its channels: those that lie farthest out."""
RIDGE = 1e-9
MATRIX = 2


@dataclass(frozen=True)
class MapNoise:
    """The noise of activation encodings of the same grid and layouts.

    Attributes:
        grid: The grid of an encoding.
        layouts: The layout of each tensor that has the encoding.
        pixels: Pixels of each tensor, [channels, encodings, pixels].
        moments: The second moments of the image's gradients at each tensor, [channels, channels, encodings].
    """

    grid: IntGrid
    layouts: tuple[Layout, ...]
    pixels: tuple[Tensor, ...]
    moments: tuple[Tensor, ...]

    @property
    def kind(self) -> Hashable:
        """What encodings have in common that are computed together."""
        return self.grid, self.layouts, tuple(x.shape for x in self.pixels)

    def joined(self, others: Sequence[Self]) -> Self:
        """Return the noise of encodings of one kind."""
        pixels = zip(self.pixels, *(other.pixels for other in others), strict=True)
        moments = zip(self.moments, *(other.moments for other in others), strict=True)
        together = tuple(torch.cat(x, 1) for x in pixels), tuple(torch.cat(x, 2) for x in moments)
        return replace(self, pixels=together[0], moments=together[1])

    @property
    def streams(self) -> frozenset[int]:
        """The streams that it depends on."""
        return frozenset().union(*map(streams_of, self.layouts))

    def noise(self, matrices: Matrices, inverses: Matrices) -> Tensor:
        """Return the squared error of the image."""
        values = [combine(x, 0, layout, matrices) for x, layout in zip(self.pixels, self.layouts, strict=True)]
        ends = (torch.cat([(sign * x).amax(2) for x in values]) for sign in (1, -1))
        high, low = (smooth_maximum(to_logs(end).T).exp() for end in ends)
        width = 2 * torch.maximum(high, low) if self.grid.symmetric else high + low
        turned = [inverse.T for inverse in inverses]
        pairs = zip(self.moments, self.layouts, strict=True)
        gain = sum((_diagonal(moment, layout, turned).sum(1) for moment, layout in pairs), torch.zeros(()))
        return ((width / self.grid.steps) ** 2 / 12 * gain).sum()


@dataclass(frozen=True)
class KernelNoise:
    """The noise of weights of the same grid and layouts.

    Attributes:
        grid: The grid of a weight.
        written: The layout of its output.
        read: The layout of its input.
        values: The weights, [outputs, inputs, weights, taps].
        outputs: The second moments of the image's gradients over output channels, [outputs, outputs, weights].
        inputs: The same over input channels.
    """

    grid: IntGrid
    written: Layout
    read: Layout
    values: Tensor
    outputs: Tensor
    inputs: Tensor

    @property
    def kind(self) -> Hashable:
        """What weights have in common that are computed together."""
        return self.grid, self.written, self.read, self.values.shape

    def joined(self, others: Sequence[Self]) -> Self:
        """Return the noise of weights of one kind."""
        members = [self, *others]
        values, outputs, inputs = (
            torch.cat([getattr(member, name) for member in members], 2) for name in ("values", "outputs", "inputs")
        )
        return replace(self, values=values, outputs=outputs, inputs=inputs)

    @property
    def streams(self) -> frozenset[int]:
        """The streams that it depends on."""
        return streams_of(self.written) | streams_of(self.read)

    def noise(self, matrices: Matrices, inverses: Matrices) -> Tensor:
        """Return the squared error of the image."""
        weight = combine(self.values, 0, self.written, matrices)
        turned = [inverse.T for inverse in inverses]
        weight = combine(weight, 1, self.read, turned)
        largest = weight.abs().amax((1, 3)).T  # [weights, outputs]
        largest = largest if self.grid.channel_axis is not None else largest.amax(1, keepdim=True)
        grown = _diagonal(self.inputs, self.read, matrices).sum(1) / self.inputs.diagonal().sum(1)
        gain = _diagonal(self.outputs, self.written, turned)
        return (((2 * largest / self.grid.steps) ** 2 / 12 * gain).sum(1) * grown).sum()


NoiseTerm = MapNoise | KernelNoise


def measure_noise(streams: Streams, plan: Plan, images: Tensor, seed: int) -> list[NoiseTerm]:
    """Measure the noise of every encoding of a plan."""
    prepared = PreparedGraph.from_plan(streams.network.module, plan)
    measured: dict[str, list[_Measured]] = {group: [] for group in plan.groups}
    for maps, pulls_by_draw in iter_pulls(prepared, plan.groups, images, DRAWS, seed):
        for group, tensors in maps.items():
            is_weight = plan.groups[group][0].role == "weight"
            measure = _measure_weight if is_weight else partial(_measure_map, share=PIXELS / len(images))
            batch = [
                measure(values.detach(), [pulls[group][number] for pulls in pulls_by_draw])
                for number, values in enumerate(tensors)
            ]
            before = measured[group]
            measured[group] = [one.join(other) for one, other in zip(before, batch, strict=True)] if before else batch
    maps, kernels = defaultdict[Hashable, list[MapNoise]](list), defaultdict[Hashable, list[KernelNoise]](list)
    for group, sites in plan.groups.items():
        if sites[0].role == "weight":
            kernel = _kernel_noise(streams, sites[0], measured[group][0])
            kernels[kernel.kind].append(kernel)
        else:
            map_noise = _map_noise(streams, sites, measured[group])
            maps[map_noise.kind].append(map_noise)
    # Encodings of one kind are computed together, as many small tensors take long.
    joined_maps = [first.joined(others) for first, *others in maps.values()]
    return [*joined_maps, *(first.joined(others) for first, *others in kernels.values())]


@dataclass(frozen=True)
class _Measured:
    """One tensor's values, and the second moments of its gradients along its first two axes."""

    values: Tensor
    outputs: Tensor
    inputs: Tensor

    def join(self, other: "_Measured") -> "_Measured":
        """Join the measurements of a map on two batches."""
        values = torch.cat([self.values, other.values], 1) if self.values.ndim == MATRIX else self.values
        return _Measured(values, self.outputs + other.outputs, self.inputs + other.inputs)


def _measure_map(values: Tensor, gradients: Sequence[Tensor], share: float) -> _Measured:
    rows = by_channel(values)
    moments = sum((_moments(by_channel(gradient)) for gradient in gradients), torch.zeros(()))
    return _Measured(_outermost(rows, math.ceil(share * len(values))), moments, torch.zeros(()))


def _outermost(rows: Tensor, count: int) -> Tensor:
    """Return the columns that lie farthest out, for the spread of all: they have the extremes of most combinations."""
    own = _moments(rows)
    ridge = RIDGE * own.trace() * torch.eye(len(own), dtype=own.dtype)
    distances = (rows * torch.linalg.solve(own + ridge, rows)).sum(0)
    return rows[:, distances.topk(min(count, rows.shape[1])).indices]


def _measure_weight(values: Tensor, gradients: Sequence[Tensor]) -> _Measured:
    kernels = [gradient.double().reshape(*gradient.shape[:2], -1) for gradient in gradients]
    first = sum((_moments(kernel.flatten(1)) for kernel in kernels), torch.zeros(()))
    second = sum((_moments(kernel.transpose(0, 1).flatten(1)) for kernel in kernels), torch.zeros(()))
    return _Measured(values.double().reshape(*values.shape[:2], -1), first, second)


def _moments(rows: Tensor) -> Tensor:
    return rows @ rows.T


def _map_noise(streams: Streams, sites: Sequence[Site], measured: Sequence[_Measured]) -> MapNoise:
    network = streams.network
    # The sites of a group share one quantizer, which is called in the order of the graph.
    nodes = sorted((network.nodes[site.source] for site in sites), key=network.positions.__getitem__)
    pixels, moments = (m.values[:, None] for m in measured), (m.outputs[..., None] for m in measured)
    return MapNoise(sites[0].grid, tuple(map(streams.layout, nodes)), tuple(pixels), tuple(moments))


def _kernel_noise(streams: Streams, site: Site, kernel: _Measured) -> KernelNoise:
    conv = streams.network.nodes[site.consumers[0].consumer]
    written, read = streams.layouts(conv)
    if conv in streams.network.transposed:
        kernel = _Measured(kernel.values.transpose(0, 1), kernel.inputs, kernel.outputs)
    values, outputs, inputs = kernel.values[:, :, None], kernel.outputs[..., None], kernel.inputs[..., None]
    return KernelNoise(site.grid, written, read, values, outputs, inputs)


def _diagonal(moments: Tensor, layout: Layout, matrices: Matrices) -> Tensor:
    """Return the diagonal of M S M^T, with S the moments and M the matrices along a layout."""
    return combine(combine(moments, 0, layout, matrices), 1, layout, matrices).diagonal()
