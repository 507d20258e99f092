"""The sum behind the body that adds the output of the head once more."""

import pytest
import torch
from helpers import networks
from torch import Tensor, nn

from srptq_plugin.graph.export import export_network, graph_of
from srptq_plugin.graph.long_skip import find_long_skips
from srptq_plugin.graph.network import Network
from srptq_plugin.graph.stages import Stages


def long_skips(network: Network) -> set[str]:
    return {network.name(add) for add in find_long_skips(network, Stages(network))}


@pytest.mark.parametrize("kind", ["edsr", "imdn", "rdn", "rrdb"])
def test_one_sum_joins_head_and_body(kind: str) -> None:
    assert long_skips(Network(networks.graph(kind))) == {"/add"}


class Activated(nn.Module):
    """A head with an activation, and an interpolated skip from the image to the output."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Sequential(networks.conv(3, 6), nn.PReLU(6))
        self.body = nn.Sequential(networks.Residual(), networks.conv(6, 6))
        self.tail = nn.Sequential(networks.conv(6, 12), nn.PixelShuffle(2))

    def forward(self, image: Tensor) -> Tensor:
        first = self.head(image)
        return self.tail(self.body(first) + first) + nn.functional.interpolate(image, scale_factor=2)


def test_an_activated_head_counts_not_the_image() -> None:
    torch.manual_seed(0)
    assert long_skips(Network(graph_of(export_network(Activated().eval())))) == {"/add"}


def test_sums_inside_the_body_are_short_skips() -> None:
    blocks = networks.Residual(), networks.Residual()
    plain = nn.Sequential(networks.conv(3, 6), *blocks, networks.conv(6, 12), nn.PixelShuffle(2))
    assert not long_skips(Network(graph_of(export_network(plain.eval()))))
