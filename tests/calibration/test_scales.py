"""Factors of channels, recovered from the weights before and after equalizing."""

import pytest
import torch
from helpers import networks

from srptq_plugin.calibration.equalization.equalize import equalize_network
from srptq_plugin.calibration.equalization.rounding_noise import RoundingNoise
from srptq_plugin.calibration.equalization.scales import output_scales
from srptq_plugin.graph.export import graph_of
from srptq_plugin.graph.network import Network


def weights(network: Network) -> dict[str, torch.Tensor]:
    parameters = (network.parameter(conv, 1) for conv in network.convs)
    return {name: value.clone() for name, value in filter(None, parameters)}


@pytest.mark.parametrize("kind", ["edsr", "mixed", "imdn", "esrgan", "shared", "bicubic", "rdn"])
def test_factors_explain_every_scaled_weight(kind: str) -> None:
    network = Network(graph_of(networks.own(networks.exported(kind))))
    before = weights(network)
    biases = {conv: network.parameter(conv, 2)[1].clone() for conv in network.convs}  # pyright: ignore[reportOptionalSubscript]
    equalize_network(RoundingNoise(network, networks.plan(kind, networks.recipe()), networks.images(), seed=0))
    scales, after = output_scales(network, before), weights(network)
    assert any((factor != 1).any() for _, factor in scales.values())
    for name, (multiplied, _) in scales.items():
        torch.testing.assert_close(before[name] * multiplied, after[name], rtol=1e-4, atol=1e-7)
    for conv, bias in biases.items():
        name = network.parameter(conv, 1)[0]  # pyright: ignore[reportOptionalSubscript]
        scaled = network.parameter(conv, 2)[1]  # pyright: ignore[reportOptionalSubscript]
        torch.testing.assert_close(bias / scales[name][1], scaled, rtol=1e-4, atol=1e-7)


def test_another_weight_is_not_explained() -> None:
    network = Network(graph_of(networks.own(networks.exported("edsr"))))
    before = weights(network)
    before["body.0.first.weight"] = before["body.0.first.weight"].flip(1)
    multiplied, _ = output_scales(network, before)["body.0.first.weight"]
    assert not torch.allclose(before["body.0.first.weight"] * multiplied, weights(network)["body.0.first.weight"])
