"""Channel equalization: factors with which rounding of weights and activations together moves the image least.

The weights that write a channel are divided by its factor, and the weights that read it are multiplied. This leaves
the float network as it is, and one scale for a tensor fits its channels better. The factors minimize the noise in the
image, to first order.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, fx, nn

from srptq_plugin.calibration.equalization.channels import Channels
from srptq_plugin.calibration.equalization.noise import ActivationNoise, NoiseTerm, WeightNoise, least_noise
from srptq_plugin.graph.export import fold_and_trace, graph_of
from srptq_plugin.graph.network import IMAGE_AXES, Network, tensor_arguments
from srptq_plugin.planning.plan import Plan
from srptq_plugin.planning.prepared_graph import PreparedGraph
from srptq_plugin.plugins.bound_recipe import BoundRecipe
from srptq_plugin.plugins.registry import Registry
from srptq_plugin.recipes.recipe import Recipe
from srptq_plugin.reconstruction.sensitivity import iter_pulls

DRAWS = 4
"""The number of random sign images for each batch."""
BEYOND = 5e-4
"""The share of values beyond either end of a channel's range."""
TINY = 1e-30
"""The smallest magnitude, so that its logarithm is finite."""


def equalize_network(network: Network, plan: Plan, images: Tensor, seed: int = 0) -> float:
    """Scale the parameters of a network in place, and return by how many dB its rounding noise is expected to fall.

    The output of the float network stays the same, up to float32 rounding.
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
    """Return a copy to prepare in any toolkit, with channels scaled for a recipe's grids and placement.

    Batch norms and mean shifts are folded into the convolutions before them.

    Args:
        module: The float network. It stays as it is.
        recipe: A recipe, or the name or file of one.
        images: Unlabeled images, [N, channels, H, W].
        input_range: The smallest and the largest value of an image.
        registry: The plugins. By default all installed ones.

    >>> network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 12, 3), nn.PixelShuffle(2)).eval()
    >>> images = torch.rand(4, 3, 16, 16)
    >>> torch.allclose(equalize(network, "openvino-w8a8", images)(images), network(images), atol=1e-5)
    True
    """
    bound = BoundRecipe.resolve(recipe, registry or Registry())
    copied, program = fold_and_trace(module, channels=images.shape[1])
    network = Network(graph_of(program))
    equalize_network(network, bound.plan(network, input_range), images.cpu(), bound.recipe.calibration.seed)
    copied.load_state_dict(program.state_dict, strict=False)
    return copied.to(next(module.parameters()).device)


def measured_parts(
    prepared: PreparedGraph, network: Network, channels: Channels, images: Tensor, seed: int
) -> list[NoiseTerm]:
    """Measure and return the noise of every encoding. Squared gradients are summed over `DRAWS` draws."""
    measured = _measure(prepared, images, seed)
    order = {node: number for number, node in enumerate(network.ops)}
    parts: list[NoiseTerm] = []
    for group, sites in prepared.plan.groups.items():
        grid, maps = sites[0].grid, measured[group]
        if sites[0].role == "weight":
            conv = network.nodes[sites[0].consumers[0].consumer]
            outputs, inputs = weight_classes(network, channels, conv)
            size, gain = (_arrange(network, conv, values, outputs, inputs) for values in (maps[0].high, maps[0].gain))
            parts.append(WeightNoise(grid, _logs(size), gain, outputs, inputs))
        else:
            # The sites of a group share one quantizer, which is called in the order of the graph. The sources are put
            # in that order too, so that their classes belong to the channels of `maps`.
            sources = sorted((network.nodes[site.source] for site in sites), key=order.__getitem__)
            by_source = [channels.of(source) for source in sources]
            pairs = zip(by_source, maps, strict=True)
            maps = [values if len(values.gain) == len(ids) else values.whole() for ids, values in pairs]
            classes = torch.from_numpy(np.concatenate(by_source))
            powers = [
                torch.full((len(ids),), channels.power(source), dtype=torch.float64)
                for source, ids in zip(sources, by_source, strict=True)
            ]
            low = torch.cat([values.low for values in maps])
            high = torch.cat([values.high for values in maps])
            gain = torch.cat([values.gain for values in maps])
            parts.append(ActivationNoise(grid, _logs(low), _logs(high), gain, classes, torch.cat(powers)))
    return parts


def _logs(magnitudes: Tensor) -> Tensor:
    return magnitudes.clamp(min=TINY).log()


@dataclass(frozen=True)
class _Measured:
    """One tensor's measurements: by channel for a feature map, by output and input channel for a weight.

    Attributes:
        low: How far values go below zero.
        high: How far values go above zero.
        gain: The squared gradients of the image, summed over values, samples and draws.
    """

    low: Tensor
    high: Tensor
    gain: Tensor

    def whole(self) -> "_Measured":
        """Return the measurements of the tensor as if it had one channel."""
        return _Measured(
            self.low.amax(0, keepdim=True), self.high.amax(0, keepdim=True), self.gain.sum(0, keepdim=True)
        )


def _measure(prepared: PreparedGraph, images: Tensor, seed: int) -> dict[str, list[_Measured]]:
    weights = prepared.of_role("weight")
    measured: dict[str, list[_Measured]] = {}
    for maps, pulls_by_draw in iter_pulls(prepared, prepared.plan.groups, images, DRAWS, seed):
        for group, tensors in maps.items():
            measure = _measure_weight if group in weights else _measure_map
            batch = [
                measure(values.detach(), [by_group[group][n] for by_group in pulls_by_draw])
                for n, values in enumerate(tensors)
            ]
            before = measured.get(group)
            measured[group] = batch if before is None else list(map(_join, before, batch))
    return measured


def _measure_map(values: Tensor, gradients: Sequence[Tensor]) -> _Measured:
    # The range without outliers: a share of BEYOND lies outside at either end, and at least the extreme itself.
    # It is counted from zero, so that a channel of one sign has an end of 0.
    rows = _rows(values)
    beyond = max(1, round(rows.shape[1] * BEYOND))
    low, high = (-rows).topk(beyond).values[:, -1], rows.topk(beyond).values[:, -1]
    gain = sum((_rows(gradient).square().sum(1) for gradient in gradients), torch.zeros(()))
    return _Measured(low.clamp(min=0), high.clamp(min=0), gain)


def _rows(values: Tensor) -> Tensor:
    """Return a row of values for each channel of a feature map, or one row for any other tensor."""
    rows = values.transpose(0, 1).flatten(1) if values.ndim == IMAGE_AXES else values.reshape(1, -1)
    return rows.double()


def _measure_weight(values: Tensor, gradients: Sequence[Tensor]) -> _Measured:
    size = values.abs().flatten(2).amax(2).double()
    gain = sum((gradient.double().square().flatten(2).sum(2) for gradient in gradients), torch.zeros(()))
    return _Measured(size, size, gain)


def _join(first: _Measured, second: _Measured) -> _Measured:
    """Join the measurements of two batches."""
    low, high = torch.maximum(first.low, second.low), torch.maximum(first.high, second.high)
    return _Measured(low, high, first.gain + second.gain)


def weight_classes(network: Network, channels: Channels, conv: fx.Node) -> tuple[Tensor, Tensor]:
    """Return the classes of a convolution's output and input channels, as [groups, outputs] and [groups, inputs]."""
    written, read = (torch.from_numpy(channels.of(node)) for node in (conv, tensor_arguments(conv)[0]))
    groups = network.groups(conv)
    return written.view(groups, -1), read.view(groups, -1)


def _arrange(network: Network, conv: fx.Node, values: Tensor, outputs: Tensor, inputs: Tensor) -> Tensor:
    """Arrange values of a weight's first two axes as [groups, outputs, inputs]."""
    groups, written, read = (*outputs.shape, inputs.shape[1])
    if conv in network.transposed:
        return values.reshape(groups, read, written).transpose(1, 2)
    return values.view(groups, written, read)


def _scale(network: Network, channels: Channels, factors: Tensor) -> None:
    """Multiply weights by the factors of their inputs, and divide weights and biases by the factors of their outputs.

    In place, and once for a weight that several convolutions share.
    """
    done: set[str] = set()
    for conv in network.convs:
        weight, bias = network.parameter(conv, 1), network.parameter(conv, 2)
        if weight is not None and weight[0] not in done:
            outputs, inputs = weight_classes(network, channels, conv)
            factor = factors[inputs][:, None] / factors[outputs][..., None]  # [groups, outputs, inputs]
            weight[1].mul_(factor.flatten(0, 1)[..., None, None])
            if bias is not None:
                bias[1].div_(factors[outputs].flatten())
            done.add(weight[0])
