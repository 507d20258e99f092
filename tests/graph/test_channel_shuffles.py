"""Channel shuffles become part of the weights of the convolutions behind them."""

from collections.abc import Callable

import pytest
import torch
from helpers import networks
from torch import Tensor, nn
from torch.nn import functional

from srptq_plugin.graph.export import export_network, graph_of
from srptq_plugin.graph.network import Network

FEATURES = 12


def by_transpose(x: Tensor, groups: int) -> Tensor:
    batch, channels, height, width = x.shape
    parts = x.view(batch, groups, channels // groups, height, width)
    return parts.transpose(1, 2).contiguous().view(batch, -1, height, width)


def by_permute(x: Tensor, groups: int) -> Tensor:
    batch, channels, height, width = x.shape
    parts = x.reshape(batch, groups, channels // groups, height, width)
    return parts.permute(0, 2, 1, 3, 4).reshape(batch, channels, height, width)


SHUFFLES = (by_transpose, by_permute, functional.channel_shuffle)


class Shuffled(nn.Module):
    """Two convolutions of one weight, each behind a channel shuffle, and one with groups."""

    def __init__(self, shuffle: Callable[[Tensor, int], Tensor], groups: int, behind: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.shuffle, self.groups, self.behind = shuffle, groups, behind
        self.head, self.mix = networks.conv(3, FEATURES), networks.conv(FEATURES, FEATURES)
        self.grouped, self.tail = nn.Conv2d(FEATURES, FEATURES, 3, 1, 1, groups=2), networks.conv(FEATURES, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.mix(self.shuffle(self.head(x).relu(), self.groups))
        shuffled = self.shuffle(x, self.groups)
        if self.behind == "grouped":
            return self.tail(self.grouped(shuffled))
        return self.tail(self.mix(shuffled) + (shuffled if self.behind == "sum" else x))


def traced(module: nn.Module) -> Network:
    return Network(graph_of(export_network(module.eval())))


@pytest.mark.parametrize("groups", [2, 3])
@pytest.mark.parametrize("shuffle", SHUFFLES)
def test_shuffles_before_convolutions_are_folded(shuffle: Callable[[Tensor, int], Tensor], groups: int) -> None:
    module = Shuffled(shuffle, groups, "conv").eval()
    network = traced(module)
    assert not {"reshape", "permute", "channel_shuffle"} & set(network.ops.values())
    weights = [parameter[0] for conv in network.convs if (parameter := network.parameter(conv, 1))]
    assert weights == ["head.weight", "mix.computed_weight", "mix.computed_weight", "tail.weight"]
    for image in (networks.images(2, 9, 11), networks.images(1, 14, 8)):
        torch.testing.assert_close(network.module(image), module(image), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("behind", ["sum", "grouped"])
@pytest.mark.parametrize("shuffle", SHUFFLES[:2])
def test_shuffles_that_others_read_stay(shuffle: Callable[[Tensor, int], Tensor], behind: str) -> None:
    module = Shuffled(shuffle, 2, behind).eval()
    network = traced(module)
    assert list(network.ops.values()).count("reshape") == 2
    torch.testing.assert_close(network.module(networks.images(1)), module(networks.images(1)), rtol=1e-5, atol=1e-6)


def test_other_turns_are_no_shuffles() -> None:
    class Turned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head, self.tail = networks.conv(3, 4), networks.conv(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.head(x)
            parts = x.view(x.shape[0], 2, 2, x.shape[2], x.shape[3]).permute(0, 1, 2, 4, 3)
            return self.tail(parts.reshape(x.shape[0], 4, x.shape[3], x.shape[2])).transpose(2, 3)

    module = Turned().eval()
    network = traced(module)
    assert "reshape" in network.ops.values()
    torch.testing.assert_close(network.module(networks.images(1, 9, 11)), module(networks.images(1, 9, 11)))
