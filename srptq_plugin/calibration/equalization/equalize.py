"""Equalize channels: scale each so that rounding, of weights and activations together, moves the image least.

What makes a channel is divided by a factor and what reads it multiplied, which leaves the float network as it is. One
scale a tensor then fits its channels better. The factors minimize, to first order, the noise in the image.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, fx, nn

from srptq_plugin.calibration.equalization.channels import Channels
from srptq_plugin.calibration.equalization.noise import ActivationNoise, NoiseTerm, WeightNoise, least_noise
from srptq_plugin.graph.export import folded, graph_of
from srptq_plugin.graph.network import IMAGE_AXES, Network, tensor_arguments
from srptq_plugin.planning.plan import Plan
from srptq_plugin.planning.prepared_graph import PreparedGraph
from srptq_plugin.plugins.bound_recipe import BoundRecipe
from srptq_plugin.plugins.registry import Registry
from srptq_plugin.recipes.recipe import Recipe
from srptq_plugin.reconstruction.sensitivity import pulls

DRAWS = 4
BEYOND = 5e-4
"""The share of values that the ends of a channel leave out."""
TINY = 1e-30


def equalize_network(network: Network, plan: Plan, images: Tensor, seed: int = 0) -> float:
    """Scale the parameters of a network in place; by how much its rounding noise is expected to fall, in dB.

    The network computes what it did before, to float32's rounding.
    """
    channels = Channels(network)
    parts = measured_parts(PreparedGraph.from_plan(network.module, plan), network, channels, images, seed)
    logs, falls = least_noise(parts, channels.count)
    _scale(network, channels, logs.exp())
    return 10 * math.log10(falls)


def equalize(
    module: nn.Module,
    recipe: Recipe | str,
    images: Tensor,
    input_range: tuple[float, float] = (0.0, 1.0),
    registry: Registry | None = None,
) -> nn.Module:
    """A copy to prepare in any toolkit: the same network, its channels scaled for a recipe's grids and placement.

    Batch norms and mean shifts are folded into the convolutions before them. `images` are unlabeled, [N, 3, H, W].

    >>> network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 12, 3), nn.PixelShuffle(2)).eval()
    >>> images = torch.rand(4, 3, 16, 16)
    >>> torch.allclose(equalize(network, "openvino-w8a8", images)(images), network(images), atol=1e-5)
    True
    """
    bound = BoundRecipe.resolve(recipe, registry or Registry())
    copied, program = folded(module)
    network = Network(graph_of(program))
    equalize_network(network, bound.plan(network, input_range), images.cpu(), bound.recipe.calibration.seed)
    copied.load_state_dict(program.state_dict, strict=False)
    return copied.to(next(module.parameters()).device)


def measured_parts(
    prepared: PreparedGraph, network: Network, channels: Channels, images: Tensor, seed: int
) -> list[NoiseTerm]:
    """Every encoding's part of the noise; the gradients are summed over `DRAWS` draws."""
    measured = _measure(prepared, images, seed)
    order = {node: number for number, node in enumerate(network.ops)}
    parts: list[NoiseTerm] = []
    for group, sites in prepared.plan.groups.items():
        grid, maps = sites[0].grid, measured[group]
        if sites[0].role == "weight":
            conv = network.nodes[sites[0].consumers[0].consumer]
            outputs, inputs = weight_classes(network, channels, conv)
            shape = (*outputs.shape, inputs.shape[1])
            parts.append(WeightNoise(grid, _logs(maps[0].high).view(shape), maps[0].gain.view(shape), outputs, inputs))
        else:
            sources = sorted((network.nodes[site.source] for site in sites), key=order.__getitem__)
            classes = torch.from_numpy(np.concatenate([channels.of(source) for source in sources]))
            low, high, gain = (torch.cat([getattr(each, name) for each in maps]) for name in ("low", "high", "gain"))
            parts.append(ActivationNoise(grid, _logs(low), _logs(high), gain, classes))
    return parts


def _logs(magnitudes: Tensor) -> Tensor:
    return magnitudes.clamp(min=TINY).log()


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
    """The classes of the outputs and of the inputs of a convolution, a row for each of its groups."""
    made, read = (torch.from_numpy(channels.of(node)) for node in (conv, tensor_arguments(conv)[0]))
    found = network.parameter(conv, 1)
    inputs = found[1].shape[1] if found else len(read)
    read = read.view(-1, inputs)
    return made.view(len(read), -1), read


def _scale(network: Network, channels: Channels, factors: Tensor) -> None:
    """Divide what makes a channel by its factor, and multiply what reads it."""
    done: set[str] = set()
    for conv in network.convs:
        weight, bias = network.parameter(conv, 1), network.parameter(conv, 2)
        if weight is not None and weight[0] not in done:
            outputs, inputs = weight_classes(network, channels, conv)
            factor = factors[inputs][:, None] / factors[outputs][..., None]
            weight[1].mul_(factor.flatten(0, 1)[..., None, None])
            if bias is not None:
                bias[1].div_(factors[outputs].flatten())
            done.add(weight[0])
