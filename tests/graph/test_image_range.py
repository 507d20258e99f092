"""The exact range of the image, moved, scaled or shifted."""

import pytest
import torch
from helpers import networks
from torch import Tensor, nn
from torch.nn import functional

from srptq_plugin.graph.export import export_network, graph_of
from srptq_plugin.graph.image_range import compute_image_range
from srptq_plugin.graph.network import Network


def exported(module: nn.Module) -> Network:
    return Network(graph_of(export_network(module)))


@pytest.mark.parametrize(
    ("kind", "name"),
    [("edsr", "sub_mean/conv"), ("mixed", "/sub"), ("imdn", "/input"), ("bicubic", "/input")],
)
@pytest.mark.parametrize("image", [(0.0, 1.0), (0.0, 255.0), (-1.0, 1.0)])
def test_the_image_has_its_exact_range_if_shifted(kind: str, name: str, image: tuple[float, float]) -> None:
    network = Network(networks.graph(kind))
    shift = (0.45, 0.4) if "input" not in name else (0.0, 0.0)
    expected = (image[0] - shift[0], image[1] - shift[1])
    assert compute_image_range(network, network.nodes[name], image) == pytest.approx(expected, abs=1e-5)


def test_feature_maps_have_no_exact_range() -> None:
    network = Network(networks.graph("mixed"))
    assert compute_image_range(network, network.nodes["head/conv"], (0.0, 1.0)) is None
    assert compute_image_range(network, network.nodes["/interpolate"], (0.0, 1.0)) is None


def test_scales_per_color_give_the_widest_range() -> None:
    class Normalized(nn.Module):
        std: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("std", torch.tensor([0.5, -0.25, 1.0])[:, None, None])
            self.head = networks.conv(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head((x - 0.5) / self.std)

    network = exported(Normalized().eval())
    assert compute_image_range(network, network.nodes["/div"], (0.0, 1.0)) == pytest.approx((-2.0, 2.0))


def test_a_padded_image_has_its_exact_range() -> None:
    class Padded(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return functional.pad(x, (0, -x.shape[3] % 16, 0, -x.shape[2] % 16), mode="reflect") * 2

    network = exported(Padded())
    assert compute_image_range(network, network.nodes["/mul"], (0.0, 1.0)) == (0.0, 2.0)
