"""Equalise channels: scale each so that rounding, of weights and activations together, moves the image least.

What makes a channel is divided by a factor and what reads it multiplied, which leaves the float network as it is. One
scale a tensor then fits its channels better. The factors minimise, to first order, the noise in the image:

    sum over activations  step^2 / 12 x sum over channels  s_c^2 G_c      step from the widest  range_c / s_c
    sum over weights      step^2 / 12 x sum over inputs    H_c / s_c^2    step from the largest |w_c| s_c

G and H being the squared gradients of the image's pixels, as `sensitivity.py` measures them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, fx, nn

from srptq_plugin.channels import FIXED, Channels
from srptq_plugin.export import export_network, folded, graph_of
from srptq_plugin.graph import PreparedGraph
from srptq_plugin.grid import IntGrid
from srptq_plugin.network import IMAGE_AXES, Network, tensor_arguments
from srptq_plugin.plan import make_plan
from srptq_plugin.recipe import Recipe
from srptq_plugin.registry import Registry
from srptq_plugin.sensitivity import pulls
from srptq_plugin.settings import rules_of
from srptq_plugin.sites import Plan

DRAWS, STEPS, RATE, SHARPNESS = 4, 400, 0.02, 24
LARGEST = 3.0
"""Of the logarithm of a factor."""
BEYOND = 5e-4
"""The share of values that the ends of a channel leave out."""


@dataclass(frozen=True)
class Activation:
    """One encoding: the ends and the gradients of all channels that it is for, and their classes."""

    grid: IntGrid
    low: Tensor
    high: Tensor
    gain: Tensor
    classes: Tensor

    def noise(self, logs: Tensor) -> Tensor:
        """What its rounding does to the image, the channels being scaled by exp(logs)."""
        factor = logs[self.classes].exp()
        high, low = _largest(self.high / factor), _largest(self.low / factor)
        width = 2 * torch.maximum(high, low) if self.grid.symmetric else high + low
        return (width / self.grid.steps) ** 2 / 12 * (self.gain * factor**2).sum()


@dataclass(frozen=True)
class Weight:
    """A weight: magnitudes and gradients by output and input channel, and the classes of both."""

    grid: IntGrid
    size: Tensor
    gain: Tensor
    outputs: Tensor
    inputs: Tensor

    def noise(self, logs: Tensor) -> Tensor:
        """What its rounding does to the image."""
        factor = (logs[self.inputs] - logs[self.outputs][:, None]).exp()
        largest = _largest(self.size * factor, dim=1)
        if self.grid.axis is None:
            largest = _largest(largest).expand(len(largest))
        return ((2 * largest / self.grid.steps) ** 2 / 12 * (self.gain / factor**2).sum(1)).sum()


def equalise(network: Network, plan: Plan, images: Tensor, seed: int = 0) -> float:
    """Scale the parameters of a network in place; by how much its rounding noise is expected to fall, in dB.

    The network computes what it did before, to float32's rounding.
    """
    channels = Channels(network)
    parts = measured_parts(PreparedGraph.placed(network.module, plan), network, channels, images, seed)
    logs = _least(parts, channels.count)
    before, after = (float(sum(part.noise(each) for part in parts)) for each in (torch.zeros_like(logs), logs))
    _scale(network, channels, logs.exp())
    return 10 * math.log10(before / after)


def equalised(
    module: nn.Module,
    recipe: Recipe | str,
    images: Tensor,
    input_range: tuple[float, float] = (0.0, 1.0),
    registry: Registry | None = None,
) -> nn.Module:
    """A copy to prepare in any toolkit: the same network, its channels scaled for a recipe's grids and placement.

    Batch norms and mean shifts are folded into the convolutions before them. `images` are unlabelled, [N, 3, H, W].

    >>> network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 12, 3), nn.PixelShuffle(2)).eval()
    >>> images = torch.rand(4, 3, 16, 16)
    >>> torch.allclose(equalised(network, "openvino-w8a8", images)(images), network(images), atol=1e-5)
    True
    """
    chosen = recipe if isinstance(recipe, Recipe) else Recipe.load(recipe)
    rules = rules_of(chosen, registry or Registry())
    copied = folded(module)
    program = export_network(copied)
    network = Network(graph_of(program))
    equalise(network, make_plan(network, rules, chosen, input_range), images, chosen.calibration.seed)
    copied.load_state_dict(program.state_dict, strict=False)
    return copied


def measured_parts(
    prepared: PreparedGraph, network: Network, channels: Channels, images: Tensor, seed: int
) -> list[Activation | Weight]:
    """Every encoding's part of the noise; the gradients are summed over `DRAWS` draws."""
    measured = _measure(prepared, images, seed)
    order = {node: number for number, node in enumerate(network.ops)}
    parts: list[Activation | Weight] = []
    for group, sites in prepared.plan.groups.items():
        grid, maps = sites[0].grid, measured[group]
        if sites[0].role == "weight":
            conv = network.nodes[sites[0].consumers[0].consumer]
            parts.append(Weight(grid, maps[0].high, maps[0].gain, *weight_classes(network, channels, conv)))
        else:
            sources = sorted((network.nodes[site.source] for site in sites), key=order.__getitem__)
            classes = torch.from_numpy(np.concatenate([channels.of(source) for source in sources]))
            low, high, gain = (torch.cat([getattr(each, name) for each in maps]) for name in ("low", "high", "gain"))
            parts.append(Activation(grid, low, high, gain, classes))
    return parts


@dataclass
class _Measured:
    """At one place, by channel (of a weight, by output and input): how far values go down and up, and the gradients."""

    low: Tensor
    high: Tensor
    gain: Tensor


def _measure(prepared: PreparedGraph, images: Tensor, seed: int) -> dict[str, list[_Measured]]:
    constant = prepared.of_role("weight")
    found: dict[str, list[_Measured]] = {}
    for maps, drawn in pulls(prepared, prepared.plan.groups, images, DRAWS, seed):
        for group, tensors in maps.items():
            pulled = ([pull[group][n] for pull in drawn] for n in range(len(tensors)))
            look = _of_weight if group in constant else _of_map
            each = [look(tensor.detach(), gradients) for tensor, gradients in zip(tensors, pulled, strict=True)]
            found[group] = [_join(*pair) for pair in zip(found[group], each, strict=True)] if group in found else each
    return found


def _of_map(values: Tensor, gradients: Sequence[Tensor]) -> _Measured:
    rows = _rows(values)
    beyond = max(1, round(rows.shape[1] * BEYOND))
    low, high = (-rows).topk(beyond).values[:, -1], rows.topk(beyond).values[:, -1]
    gain = sum((_rows(each).square().sum(1) for each in gradients), torch.zeros(()))
    return _Measured(low.clamp(min=0), high.clamp(min=0), gain)


def _rows(values: Tensor) -> Tensor:
    """A row for each channel; one for what is no feature map."""
    rows = values.transpose(0, 1).flatten(1) if values.ndim == IMAGE_AXES else values.reshape(1, -1)
    return rows.double()


def _of_weight(values: Tensor, gradients: Sequence[Tensor]) -> _Measured:
    size = values.abs().flatten(2).amax(2).double()
    gain = sum((each.double().square().flatten(2).sum(2) for each in gradients), torch.zeros(()))
    return _Measured(size, size, gain)


def _join(one: _Measured, other: _Measured) -> _Measured:
    low, high = torch.maximum(one.low, other.low), torch.maximum(one.high, other.high)
    return _Measured(low, high, one.gain + other.gain)


def weight_classes(network: Network, channels: Channels, conv: fx.Node) -> tuple[Tensor, Tensor]:
    """The class of each output of a convolution, and of each input of each output."""
    made, read = (torch.from_numpy(channels.of(node)) for node in (conv, tensor_arguments(conv)[0]))
    found = network.parameter(conv, 1)
    outputs, inputs = found[1].shape[:2] if found else (0, 0)
    groups = len(read) // inputs
    return made, read.reshape(groups, 1, inputs).expand(groups, outputs // groups, inputs).reshape(outputs, inputs)


def _least(parts: Sequence[Activation | Weight], count: int) -> Tensor:
    """The logarithms of the factors with the least noise; that of class FIXED stays 0."""
    logs = torch.zeros(count, dtype=torch.float64, requires_grad=True)
    free = torch.ones(count, dtype=torch.float64)
    free[FIXED] = 0
    optimizer = torch.optim.Adam([logs], lr=RATE)
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = RATE * (1 - step / STEPS)
        optimizer.zero_grad()
        _noise(parts, logs * free).log().backward()
        optimizer.step()
    return (logs.detach() * free).clamp(-LARGEST, LARGEST)


def _noise(parts: Sequence[Activation | Weight], logs: Tensor) -> Tensor:
    return torch.stack([part.noise(logs) for part in parts]).sum()


def _largest(values: Tensor, dim: int = 0) -> Tensor:
    """A smooth maximum: the norm of a high order."""
    top = values.detach().amax(dim, keepdim=True).clamp(min=1e-30)
    return ((values / top).pow(SHARPNESS).sum(dim) + 1e-30).pow(1 / SHARPNESS) * top.squeeze(dim)


def _scale(network: Network, channels: Channels, factors: Tensor) -> None:
    """Divide what makes a channel by its factor, and multiply what reads it."""
    done: set[str] = set()
    for conv in network.convs:
        weight, bias = network.parameter(conv, 1), network.parameter(conv, 2)
        if weight is not None and weight[0] not in done:
            outputs, inputs = weight_classes(network, channels, conv)
            weight[1].mul_((factors[inputs] / factors[outputs][:, None])[..., None, None])
            if bias is not None:
                bias[1].div_(factors[outputs])
            done.add(weight[0])
