"""How much noise each encoding of a plan puts into the image, measured on images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, fx

from srptq_plugin.calibration.equalization.channels import Channels
from srptq_plugin.calibration.equalization.noise import (
    ActivationNoise,
    NoiseTerm,
    WeightNoise,
    least_noise,
    no_factors,
    to_logs,
)
from srptq_plugin.graph.network import IMAGE_AXES, Network, tensor_arguments
from srptq_plugin.planning.plan import Plan
from srptq_plugin.planning.prepared_graph import PreparedGraph
from srptq_plugin.reconstruction.sensitivity import iter_pulls

DRAWS = 4
"""The number of random sign images for each batch."""
BEYOND = 5e-4
"""The share of values beyond either end of a channel's range."""


class RoundingNoise:
    """The noise of a network's encodings by one plan, as a function of the factors of its channels."""

    def __init__(self, network: Network, plan: Plan, images: Tensor, seed: int) -> None:
        self.network, self.plan, self.images, self.channels = network, plan, images, Channels(network)
        prepared = PreparedGraph.from_plan(network.module, plan)
        self.parts = measured_parts(prepared, network, self.channels, images, seed)

    @cached_property
    def least(self) -> tuple[Tensor, float]:
        """The logarithms of the factors with the least noise, and the ratio by which it falls."""
        return least_noise(self.parts, self.channels.count)

    def by_group(self, *, equalized: bool) -> Mapping[str, float]:
        """Return the noise of each encoding, with the best factors or with none."""
        logs = self.least[0] if equalized else no_factors(self.channels.count)
        return {group: float(part.noise(logs)) for group, part in zip(self.plan.groups, self.parts, strict=True)}


def measured_parts(
    prepared: PreparedGraph, network: Network, channels: Channels, images: Tensor, seed: int
) -> list[NoiseTerm]:
    """Measure and return the noise of every encoding. Squared gradients are summed over `DRAWS` draws."""
    measured = _measure(prepared, images, seed)
    parts: list[NoiseTerm] = []
    for group, sites in prepared.plan.groups.items():
        grid, maps = sites[0].grid, measured[group]
        if sites[0].role == "weight":
            conv = network.nodes[sites[0].consumers[0].consumer]
            outputs, inputs = weight_classes(network, channels, conv)
            size, gain = (_arrange(network, conv, values, outputs, inputs) for values in (maps[0].high, maps[0].gain))
            parts.append(WeightNoise(grid, to_logs(size), gain, outputs, inputs))
        else:
            # The sites of a group share one quantizer, which is called in the order of the graph. The sources are put
            # in that order too, so that their classes belong to the channels of `maps`.
            sources = sorted((network.nodes[site.source] for site in sites), key=network.positions.__getitem__)
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
            parts.append(ActivationNoise(grid, to_logs(low), to_logs(high), gain, classes, torch.cat(powers)))
    return parts


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
    rows = by_channel(values)
    beyond = max(1, round(rows.shape[1] * BEYOND))
    low, high = (-rows).topk(beyond).values[:, -1], rows.topk(beyond).values[:, -1]
    gain = sum((by_channel(gradient).square().sum(1) for gradient in gradients), torch.zeros(()))
    return _Measured(low.clamp(min=0), high.clamp(min=0), gain)


def by_channel(values: Tensor) -> Tensor:
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
