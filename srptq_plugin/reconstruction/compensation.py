"""Error-compensated rounding (GPTQ, Frantar et al. 2023): weights not yet rounded compensate the errors of others.

Rounding a weight moves a convolution's output by the error times the values that the weight reads. Images are smooth,
so its neighbors read nearly the same values and can take most of that back. The second moments of these values, the
Hessian of the output error, are measured on a few images.
"""

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.nn.functional import conv2d

from srptq_plugin.graph.network import Network
from srptq_plugin.planning.plan import Site
from srptq_plugin.planning.prepared_graph import SILENT, PreparedGraph
from srptq_plugin.quantization.grid import QParams
from srptq_plugin.quantization.quantizer import Mode
from srptq_plugin.quantization.saturation import pairings
from srptq_plugin.utils.progress import Progress, quiet

MOST = 1152
"""The most weights of an output channel that are compensated together. Wider layers are cut between input channels."""
SIDE = 32
"""Rows and columns in the middle of a feature map that are read."""
DAMPING = 0.01
"""The share of the mean second moment that is added to each, as in GPTQ."""


def compensate(prepared: PreparedGraph, images: Tensor, progress: Progress = quiet) -> float:
    """Round every weight in place, with compensation, if that brings the images nearer to the float network's.

    Weights of transposed convolutions stay at the nearest levels.

    Returns:
        By how many dB the noise in the images falls. 0 if the weights were left as they were.
    """
    progress("rounding weights", 0, 0)
    with torch.no_grad():
        teacher = prepared.float_forward(images)[0]
        before, nearest = prepared.noise(images, teacher), _copy_weights(prepared)
        for site, parts in InputReader(prepared).measure(images).items():
            weight, qparams = prepared.parameter(site), prepared.quantizers[site.group].qparams().detach()
            weight.data.copy_(round_weight(weight.detach().cpu(), qparams, parts).to(weight.device))
        after = prepared.noise(images, teacher)
        if after >= before:
            for weight, values in nearest:
                weight.data.copy_(values)
    return 10 * math.log10(before / min(after, before))


def _copy_weights(prepared: PreparedGraph) -> list[tuple[Any, Tensor]]:
    weights = [prepared.parameter(site) for site in prepared.plan.weights]
    return [(weight, weight.detach().clone()) for weight in weights]


@dataclass(frozen=True)
class InputPart:
    """Input channels of a group that are compensated together.

    Attributes:
        group: The group of the convolution.
        channels: The input channels, counted within the group.
        moments: The second moments of the values that their weights read, as [weights, weights]. Weights are ordered
            as in a flat weight: by input channel, then by tap.
    """

    group: int
    channels: slice
    moments: Tensor


class InputReader(fx.Interpreter):
    """An interpreter that sums the second moments of the values that each planned convolution reads."""

    def __init__(self, prepared: PreparedGraph) -> None:
        super().__init__(prepared.module)
        network = Network(prepared.module)
        self._prepared = prepared
        # Pixels of a transposed convolution read different weights, so its errors have no Hessian in common.
        nodes = ((network.nodes[edge.consumer], site) for site in prepared.plan.weights for edge in site.consumers)
        self._sites = {node: site for node, site in nodes if node not in network.transposed}
        self._moments: dict[Site, dict[tuple[int, int], Tensor]] = defaultdict(dict)

    def measure(self, images: Tensor) -> Mapping[Site, Sequence[InputPart]]:
        """Run the images one by one, and return the parts of each weight."""
        with self._prepared.mode(Mode.QUANTIZE):
            for image in images.split(1):
                self.run(image)
        return {site: [*self._iter_parts(site, sums)] for site, sums in self._moments.items()}

    def _iter_parts(self, site: Site, sums: Mapping[tuple[int, int], Tensor]) -> Iterator[InputPart]:
        step = _part_size(self._prepared.parameter(site))
        for (group, first), moments in sums.items():
            yield InputPart(group, slice(first, first + step), moments.cpu())

    def run_node(self, n: fx.Node) -> Any:
        if n in self._sites:
            self._add_moments(self._sites[n], self.fetch_args_kwargs_from_env(n)[0][0], Geometry.of(n, self.module))
        return super().run_node(n)

    def _add_moments(self, site: Site, values: Tensor, geometry: "Geometry") -> None:
        weight, sums = self._prepared.parameter(site), self._moments[site]
        step, inputs = _part_size(weight), weight.shape[1]
        for group, channels in enumerate(_crop_middle(values).split(inputs, dim=1)):
            for first, part in zip(range(0, inputs, step), channels.split(step, dim=1), strict=True):
                reads = geometry.unfold(part, tuple(weight.shape[2:]))
                sums[group, first] = sums.get((group, first), 0) + reads @ reads.T


def _crop_middle(values: Tensor) -> Tensor:
    top, left = (max(0, size - SIDE) // 2 for size in values.shape[2:])
    return values[..., top : top + SIDE, left : left + SIDE]


def _part_size(weight: Tensor) -> int:
    """Return how many input channels are compensated together: an even number, which cuts no pair that kernels add."""
    return max(2, MOST // weight[0, 0].numel() // 2 * 2)


@dataclass(frozen=True)
class Geometry:
    """Stride, padding and dilation of a convolution."""

    stride: Any
    padding: Any
    dilation: Any

    @classmethod
    def of(cls, node: fx.Node, module: Any) -> "Geometry":
        """Read the geometry of a called layer or of a call of `conv2d`."""
        names = ("stride", "padding", "dilation")
        if node.op == "call_module":
            layer = module.get_submodule(str(node.target))
            return cls(*(getattr(layer, name) for name in names))
        target: Any = node.target
        defaults = {argument.name: argument.default_value for argument in target._schema.arguments}  # noqa: SLF001
        arguments = defaults | dict(zip(defaults, node.args, strict=False)) | node.kwargs
        return cls(*(arguments[name] for name in names))

    def unfold(self, values: Tensor, kernel: tuple[int, ...]) -> Tensor:
        """Return the values that each weight of an output channel reads, as [weights, positions]."""
        # im2col by a convolution with one-hot kernels, as `functional.unfold` takes no padding "same".
        # Row n is read by weight n of `weight.flatten(1)`.
        weights = values.shape[1] * math.prod(kernel)
        one_hot = torch.eye(weights, device=values.device).view(weights, values.shape[1], *kernel)
        return conv2d(values, one_hot, None, self.stride, self.padding, self.dilation).transpose(0, 1).flatten(1)


def round_weight(weight: Tensor, qparams: QParams, parts: Sequence[InputPart]) -> Tensor:
    """Return a weight at levels of its grid, with each error compensated by the weights that are rounded later.

    Pairs that kernels add stay within the pair limit of the grid.
    """
    rounding = _Rounding(weight, qparams, groups=1 + max(part.group for part in parts))
    for part in parts:
        rounding.round(part)
    return rounding.values()


class _Rounding:
    """The integers of a weight, chosen one position at a time for all output channels of a group at once."""

    def __init__(self, weight: Tensor, qparams: QParams, groups: int) -> None:
        self._shape, self._grid, self._outputs = weight.shape, qparams.grid, len(weight) // groups
        self._scale = qparams.scale.cpu().double().reshape(-1, 1)
        self._zero = qparams.zero_point.cpu().double().reshape(-1, 1)
        self._real = weight.double().flatten(1) / self._scale + self._zero  # in steps of the grid
        self._integers = torch.zeros_like(self._real)
        self._partners = (
            _find_partners(weight) if self._grid.pair_limit is not None else defaultdict[int, set[int]](set)
        )

    def round(self, part: InputPart) -> None:
        """Round the weights of a part."""
        taps = math.prod(self._shape[2:])
        first = part.channels.start * taps
        # GPTQ's "act order": weights with large inputs matter most, so they are rounded while most others are free.
        order = part.moments.diagonal().argsort(descending=True)
        spread = _inverse_root(part.moments.double()[order][:, order])
        outputs = slice(part.group * self._outputs, (part.group + 1) * self._outputs)
        real = self._real[outputs][:, first + order]
        for n, position in enumerate((first + order).tolist()):
            chosen = self._limit(position, outputs, real[:, n].round())
            self._integers[outputs, position] = chosen
            # With U the upper Cholesky factor of the inverse Hessian, row n spreads the error of weight n over the
            # later ones. They then minimize the output error, given all weights up to n. Earlier ones stay as chosen.
            real[:, n + 1 :] -= ((real[:, n] - chosen) / spread[n, n])[:, None] * spread[n, n + 1 :]

    def _limit(self, position: int, outputs: slice, nearest: Tensor) -> Tensor:
        """Clamp integers to the grid, and to the room that the pair limit leaves next to their partners."""
        low = torch.full_like(nearest, self._grid.qmin)
        high = torch.full_like(nearest, self._grid.qmax)
        # A partner that is not rounded yet counts as 0: it finds this weight when its turn comes.
        for partner in self._partners[position]:
            neighbor, limit = self._integers[outputs, partner], self._grid.pair_limit or 0
            low = torch.maximum(low, -limit - neighbor.clamp(max=0))
            high = torch.minimum(high, limit - neighbor.clamp(min=0))
        return nearest.clamp(low, high)

    def values(self) -> Tensor:
        """Return the weight at the chosen levels."""
        return ((self._integers - self._zero) * self._scale).float().view(self._shape)


def _find_partners(weight: Tensor) -> defaultdict[int, set[int]]:
    """Return the weights that kernels add to each weight of an output channel, for every way in which they pair."""
    partners: defaultdict[int, set[int]] = defaultdict(set)
    for pairs in pairings(weight.shape[1], tuple(weight.shape[2:])):
        inside = (pairs < weight[0].numel()).all(1)  # the position behind the last weight is padding
        for first, second in pairs[inside].tolist():
            partners[first].add(second)
            partners[second].add(first)
    return partners


def _inverse_root(moments: Tensor) -> Tensor:
    """Return the upper Cholesky factor of the inverse of the damped moments."""
    # Damping makes the moments positive definite: some weights read zeros only, or the same values as others.
    # SILENT keeps that true for a layer that reads nothing but zeros.
    damped = moments + DAMPING * moments.diagonal().mean().clamp(min=SILENT) * torch.eye(len(moments)).double()
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    return torch.linalg.cholesky(inverse, upper=True)
