"""Classes of channels that can only be scaled together."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from helpers import networks
from torch import Tensor, nn
from torch.nn import functional

from srptq_plugin.calibration.equalization.channels import FIXED, Channels, Ids
from srptq_plugin.graph.export import fold_and_trace, graph_of
from srptq_plugin.graph.network import Network

Body = Callable[["Between", Tensor], Tensor]


class Between(nn.Module):
    """Two convolutions of four channels, and something between them."""

    def __init__(self, body: Body, outputs: int = 4) -> None:
        super().__init__()
        self.body = body
        self.first, self.other = networks.conv(3, 4), networks.conv(3, 4)
        self.gate = nn.Conv2d(4, 4, 1)
        self.last = networks.conv(outputs, 3)

    def forward(self, x: Tensor) -> Tensor:
        self.x = x
        return self.last(self.body(self, self.first(x)))


def classes(body: Body, outputs: int = 4) -> tuple[Ids, Ids]:
    """Return the classes that the first convolution writes and that the last one reads."""
    module = Between(body, outputs).eval()
    network = Network(graph_of(fold_and_trace(module)[1]))
    channels = Channels(network)
    last = network.nodes["last/conv"]
    return channels.of(network.nodes["first/conv"]), channels.of(network.edges_in(last)[0][1])


def gated(net: Between, x: Tensor) -> Tensor:
    return x * torch.sigmoid(net.gate(functional.adaptive_avg_pool2d(x, 1)))


def deviation(_net: Between, x: Tensor) -> Tensor:
    return (x - x.mean((2, 3), keepdim=True)).square().mean((2, 3), keepdim=True).sqrt()


def summed_deviation(_net: Between, x: Tensor) -> Tensor:
    """Compute the same as in IMDN's own code."""
    size = x.size(2) * x.size(3)
    mean = x.sum(3, keepdim=True).sum(2, keepdim=True) / size
    return ((x - mean).pow(2).sum(3, keepdim=True).sum(2, keepdim=True) / size).pow(0.5)


PASSES: dict[str, Body] = {
    "relu": lambda _, x: functional.relu(x),
    "leaky_relu": lambda _, x: functional.leaky_relu(x, 0.1),
    "bilinear": lambda _, x: functional.interpolate(x, scale_factor=2.0, mode="bilinear"),
    "halved": lambda _, x: x * 0.5,
    "divided": lambda _, x: x / 3,
    "deviation": deviation,
    "summed deviation": summed_deviation,
}
STOPS: dict[str, Body] = {
    "sigmoid": lambda _, x: torch.sigmoid(x),
    "tanh": lambda _, x: torch.tanh(x),
    "bias": lambda _, x: x + 1.0,
    "negated": lambda _, x: x * -1.0,
    "squared": lambda _, x: x * x,
    "a square": lambda _, x: x.square(),
    "a square and itself": lambda _, x: x + x.square(),
    "an inverse": lambda _, x: x.pow(-1),
    "a sign": lambda _, x: x / (x.size(2) - 100),
    "the image": lambda net, x: x + torch.cat([net.x, net.x[:, :1]], 1),
    "channel mean": lambda _, x: x - x.mean(1, keepdim=True),
    "clamp": lambda _, x: x.clamp(-1, 1),
}


@pytest.mark.parametrize("name", PASSES)
def test_factors_pass_homogeneous_operations(name: str) -> None:
    written, read = classes(PASSES[name])
    assert written.tolist() == read.tolist()
    assert len(set(written)) == 4
    assert FIXED not in written


def test_a_square_has_squared_factors() -> None:
    network = Network(graph_of(fold_and_trace(Between(deviation).eval())[1]))
    channels = Channels(network)
    powers = {op: channels.power(node) for node, op in network.ops.items() if op in ("conv", "sub", "pow", "sqrt")}
    assert powers == {"conv": 1, "sub": 1, "pow": 2, "sqrt": 1}


@pytest.mark.parametrize("name", STOPS)
def test_other_readers_fix_a_map(name: str) -> None:
    written, _ = classes(STOPS[name])
    assert set(written) == {FIXED}


def test_a_sum_binds_both_sides_channel_by_channel() -> None:
    module = Between(lambda net, x: x + net.other(net.x)).eval()
    network = Network(graph_of(fold_and_trace(module)[1]))
    channels = Channels(network)
    left, right = (channels.of(network.nodes[f"{name}/conv"]) for name in ("first", "other"))
    assert left.tolist() == right.tolist()
    assert len(set(left)) == 4


def test_split_and_concat_move_classes() -> None:
    written, read = classes(lambda _, x: torch.cat([*torch.split(x, [1, 3], dim=1)][::-1], 1))
    assert read.tolist() == [*written[1:], written[0]]


def test_a_pixel_shuffle_binds_joined_channels() -> None:
    written, read = classes(lambda _, x: functional.pixel_shuffle(x, 2), outputs=1)
    assert len(set(written)) == 1
    assert set(read) == set(written)
    assert FIXED not in written


def test_gates_are_fixed_and_gated_maps_are_not() -> None:
    network = Network(graph_of(fold_and_trace(Between(gated).eval())[1]))
    channels = Channels(network)
    written, gate, product = (channels.of(network.nodes[key]) for key in ("first/conv", "gate/conv", "/mul"))
    assert written.tolist() == product.tolist()
    assert FIXED not in written
    assert set(gate) == {FIXED}


@pytest.mark.parametrize("kind", networks.NETWORKS)
def test_the_image_at_both_ends_is_fixed(kind: str) -> None:
    network = Network(networks.graph(kind))
    channels = Channels(network)
    output = next(node for node, op in network.ops.items() if op == "output")
    for node in (network.input, *(source for _, source in network.edges_in(output))):
        assert set(channels.of(node)) == {FIXED}


def test_convolutions_with_a_shared_weight_are_bound() -> None:
    network = Network(networks.graph("shared"))
    channels = Channels(network)
    once, again = (channels.of(network.nodes[f"block.first/conv{n}"]) for n in ("", ".1"))
    assert np.array_equal(once, again)
    assert FIXED not in once
