"""Error-compensated rounding (GPTQ, Frantar et al. 2023): weights not yet rounded make up for those that are.

Rounding a weight moves a convolution's output by the error times what the weight reads. Its neighbors read nearly the
same, as images are smooth, so they can take most of that back. How alike they read is measured on a few images.
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
"""Weights of an output channel that are compensated together; wider layers are cut between input channels."""
SIDE = 32
"""Rows and columns of a feature map that are looked at."""
DAMPING = 0.01
"""Share of the mean variance that is added to each, so that unread weights have one."""


def compensate(prepared: PreparedGraph, images: Tensor, progress: Progress = quiet) -> float:
    """Round every weight anew, in place, if that brings the images nearer to the float network's.

    Returns by how many dB the noise in the images falls, 0 where the weights were left as they are.
    """
    progress("rounding weights", 0, 0)
    with torch.no_grad():
        teacher = prepared.float_forward(images)[0]
        before, nearest = prepared.noise(images, teacher), _weights(prepared)
        for site, moments in InputReader(prepared).moments(images).items():
            weight, qparams = prepared.parameter(site), prepared.quantizers[site.group].qparams().detach()
            weight.data.copy_(rounded(weight.detach().cpu(), qparams, moments).to(weight.device))
        after = prepared.noise(images, teacher)
        if after >= before:
            for weight, values in nearest:
                weight.data.copy_(values)
    return 10 * math.log10(before / min(after, before))


def _weights(prepared: PreparedGraph) -> list[tuple[Any, Tensor]]:
    return [(weight := prepared.parameter(site), weight.detach().clone()) for site in prepared.plan.weights]


@dataclass(frozen=True)
class InputPart:
    """Input channels of a group that are compensated together, and the second moments of what their weights read."""

    group: int
    channels: slice
    moments: Tensor


class InputReader(fx.Interpreter):
    """Runs a quantized network and gathers the second moments of what each planned convolution reads."""

    def __init__(self, prepared: PreparedGraph) -> None:
        super().__init__(prepared.module)
        network = Network(prepared.module)
        self._prepared = prepared
        self._sites = {network.nodes[edge.consumer]: site for site in prepared.plan.weights for edge in site.consumers}
        self._moments: dict[Site, dict[tuple[int, int], Tensor]] = defaultdict(dict)

    def moments(self, images: Tensor) -> Mapping[Site, Sequence[InputPart]]:
        """Return the parts of each weight."""
        with self._prepared.mode(Mode.QUANTIZE):
            for image in images.split(1):
                self.run(image)
        return {site: [*self._parts(site, sums)] for site, sums in self._moments.items()}

    def _parts(self, site: Site, sums: Mapping[tuple[int, int], Tensor]) -> Iterator[InputPart]:
        step = _step(self._prepared.parameter(site))
        for (group, first), moments in sums.items():
            yield InputPart(group, slice(first, first + step), moments.cpu())

    def run_node(self, n: fx.Node) -> Any:
        if n in self._sites:
            self._gather(self._sites[n], self.fetch_args_kwargs_from_env(n)[0][0], _geometry(n, self.module))
        return super().run_node(n)

    def _gather(self, site: Site, values: Tensor, geometry: "Geometry") -> None:
        weight, sums = self._prepared.parameter(site), self._moments[site]
        step, inputs = _step(weight), weight.shape[1]
        for group, channels in enumerate(_middle(values).split(inputs, dim=1)):
            for first, part in zip(range(0, inputs, step), channels.split(step, dim=1), strict=True):
                reads = geometry.reads(part, tuple(weight.shape[2:]))
                sums[group, first] = sums.get((group, first), 0) + reads @ reads.T


def _middle(values: Tensor) -> Tensor:
    top, left = (max(0, size - SIDE) // 2 for size in values.shape[2:])
    return values[..., top : top + SIDE, left : left + SIDE]


def _step(weight: Tensor) -> int:
    """Return how many input channels are compensated together: an even number, which cuts no pair that kernels add."""
    return max(2, MOST // weight[0, 0].numel() // 2 * 2)


@dataclass(frozen=True)
class Geometry:
    """How a convolution moves over its input."""

    stride: Any
    padding: Any
    dilation: Any

    def reads(self, values: Tensor, kernel: tuple[int, ...]) -> Tensor:
        """Return a row for each weight of an output channel: what it reads at each place."""
        places = values.shape[1] * math.prod(kernel)
        one_hot = torch.eye(places, device=values.device).view(places, values.shape[1], *kernel)
        return conv2d(values, one_hot, None, self.stride, self.padding, self.dilation).transpose(0, 1).flatten(1)


def _geometry(node: fx.Node, module: Any) -> Geometry:
    names = ("stride", "padding", "dilation")
    if node.op == "call_module":
        layer = module.get_submodule(str(node.target))
        return Geometry(*(getattr(layer, name) for name in names))
    target: Any = node.target
    defaults = {argument.name: argument.default_value for argument in target._schema.arguments}  # noqa: SLF001
    given = defaults | dict(zip(defaults, node.args, strict=False)) | node.kwargs
    return Geometry(*(given[name] for name in names))


def rounded(weight: Tensor, qparams: QParams, parts: Sequence[InputPart]) -> Tensor:
    """Return a weight at levels of its grid, each error made up for by the weights that are rounded later.

    Pairs that kernels add stay within the limit of the grid: a level that a neighbor leaves no room for is not taken.
    """
    rounding = _Rounding(weight, qparams, groups=1 + max(part.group for part in parts))
    for part in parts:
        rounding.round(part)
    return rounding.values()


class _Rounding:
    """The integers of a weight, chosen one by one for all output channels of a group at once."""

    def __init__(self, weight: Tensor, qparams: QParams, groups: int) -> None:
        self._shape, self._grid, self._outputs = weight.shape, qparams.grid, len(weight) // groups
        self._scale, self._zero = (
            values.cpu().double().reshape(-1, 1) for values in (qparams.scale, qparams.zero_point)
        )
        self._real = weight.double().flatten(1) / self._scale + self._zero
        self._integers = torch.zeros_like(self._real)
        self._partners = _partners(weight) if self._grid.pair_limit is not None else defaultdict[int, set[int]](set)

    def round(self, part: InputPart) -> None:
        """Round the weights of a part, those first that read the most."""
        taps = math.prod(self._shape[2:])
        first = part.channels.start * taps
        order = part.moments.diagonal().argsort(descending=True)
        spread = _inverse_root(part.moments.double()[order][:, order])
        outputs = slice(part.group * self._outputs, (part.group + 1) * self._outputs)
        real = self._real[outputs][:, first + order]
        for n, place in enumerate((first + order).tolist()):
            chosen = self._within(place, outputs, real[:, n].round())
            self._integers[outputs, place] = chosen
            real[:, n + 1 :] -= ((real[:, n] - chosen) / spread[n, n])[:, None] * spread[n, n + 1 :]

    def _within(self, place: int, outputs: slice, nearest: Tensor) -> Tensor:
        """Return the nearest integers of the grid that fit beside the neighbors' integers."""
        low, high = (torch.full_like(nearest, end) for end in (self._grid.qmin, self._grid.qmax))
        for partner in self._partners[place]:
            beside, limit = self._integers[outputs, partner], self._grid.pair_limit or 0
            low = torch.maximum(low, -limit - beside.clamp(max=0))
            high = torch.minimum(high, limit - beside.clamp(min=0))
        return nearest.clamp(low, high)

    def values(self) -> Tensor:
        """Return the weight at the levels that were chosen."""
        return ((self._integers - self._zero) * self._scale).float().view(self._shape)


def _partners(weight: Tensor) -> defaultdict[int, set[int]]:
    """Return with which others kernels add each weight of an output channel."""
    partners: defaultdict[int, set[int]] = defaultdict(set)
    for way in pairings(weight.shape[1], tuple(weight.shape[2:])):
        for one, other in way[(way < weight[0].numel()).all(1)].tolist():
            partners[one].add(other)
            partners[other].add(one)
    return partners


def _inverse_root(moments: Tensor) -> Tensor:
    """Return the upper Cholesky factor of the inverse: row by row, how an error is best spread over later weights."""
    damped = moments + DAMPING * moments.diagonal().mean().clamp(min=SILENT) * torch.eye(len(moments)).double()
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    return torch.linalg.cholesky(inverse, upper=True)
