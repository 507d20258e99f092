"""Weights that are computed from other parameters become plain ones, and the network itself stays unchanged."""

import warnings
from collections.abc import Callable, Mapping
from io import BytesIO

import pytest
import torch
from helpers import networks
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations, spectral_norm, weight_norm

from srptq_plugin.graph.export import export_network, graph_of
from srptq_plugin.graph.network import Network as Graph
from srptq_plugin.graph.reparameterized import fold_computed
from srptq_plugin.models.loading import describe
from srptq_plugin.models.model_record import SRNetwork

IMAGE = networks.images(1, 9, 11)
NORMS: Mapping[str, Callable[[nn.Module], nn.Module]] = {
    "weight_norm, by hooks": weight_norm,
    "spectral_norm, by hooks": spectral_norm,
    "weight_norm": parametrizations.weight_norm,
    "spectral_norm": parametrizations.spectral_norm,
}


class Reparameterized(nn.Module):
    """A layer that adds a small kernel to a scaled large one in every forward."""

    def __init__(self) -> None:
        super().__init__()
        self.large, self.small = networks.conv(3, 6), networks.conv(3, 6, 1)
        self.scale = nn.Parameter(torch.rand(6, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        weight = self.scale * self.large.weight + functional.pad(self.small.weight, (1, 1, 1, 1))
        return functional.conv2d(x, weight, self.large.bias, padding=1)


@pytest.fixture(params=[*NORMS, "computed in forward"])
def network(request: pytest.FixtureRequest) -> nn.Module:
    """Build a network whose convolutions, each run twice, compute their weights."""
    torch.manual_seed(0)
    norm = NORMS.get(request.param)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # the hooks are deprecated in torch, and in use elsewhere
        head = Reparameterized() if norm is None else norm(networks.conv(3, 6))
        tail = networks.conv(6, 3) if norm is None else norm(networks.conv(6, 3))
    module = nn.Sequential(head, nn.ReLU(), tail, head, tail).eval()
    module(IMAGE)
    return module


def test_computed_weights_become_parameters_of_the_export(network: nn.Module) -> None:
    expected = network(IMAGE)
    graph = Graph(graph_of(export_network(describe("toy", SRNetwork(network)).module)))
    assert len(graph.convs) == 4
    assert all(graph.parameter(conv, 1) for conv in graph.convs)
    assert torch.allclose(graph.module(IMAGE), expected, atol=1e-6)
    assert torch.equal(network(IMAGE), expected)


def test_a_program_with_computed_weights_can_be_saved() -> None:
    program, file = export_network(Reparameterized()), BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    assert torch.equal(torch.export.load(file).module()(IMAGE), program.module()(IMAGE))


class Unshuffle(nn.Module):
    """A pixel unshuffle by a convolution, whose kernel forward writes value by value."""

    def forward(self, x: Tensor) -> Tensor:
        kernel = torch.zeros(12, 1, 2, 2, device=x.device)
        for row in range(2):
            for column in range(2):
                kernel[column + 2 * row :: 4, 0, row, column] = 1
        return functional.conv2d(x, kernel, stride=2, groups=3)


def test_kernels_written_in_forward_become_parameters() -> None:
    network = nn.Sequential(Unshuffle(), networks.conv(12, 12))
    program = export_network(network, multiple=2)
    assert "0.computed_weight" in program.state_dict
    assert [str(node.target) for node in program.graph.nodes if node.op == "call_function"] == [
        "aten.conv2d.default"
    ] * 2
    even = torch.rand(2, 3, 10, 14)
    assert torch.equal(program.module()(even), network(even))
    assert torch.equal(Unshuffle()(even), functional.pixel_unshuffle(even, 2))


def test_masks_written_in_forward_stay() -> None:
    class Masked(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            mask = torch.zeros(1, 9, 11)
            mask[:, 2:-3, 1:].fill_(5)
            mask[:, :2, -4:-1] = 3
            parts = mask.view(1, 3, 33).transpose(1, 2) * 2
            return x + parts.reshape(1, 1, 9, 11)

    module = nn.Sequential(networks.conv(3, 3), Masked()).eval()
    image = networks.images(1, 9, 11)
    torch.testing.assert_close(export_network(module, (1, 3, 9, 11)).module()(image), module(image))


def test_kernels_changed_after_a_reader_stay_computed() -> None:
    class Changing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            kernel = torch.ones(3, 1, 1, 1)
            first = functional.conv2d(x, kernel, groups=3)
            kernel.mul_(2)
            return first + functional.conv2d(x, kernel, groups=3)

    program = fold_computed(torch.export.export(Changing(), (IMAGE,)))
    assert torch.equal(program.module()(IMAGE), 3 * IMAGE)


def test_kernels_that_images_are_written_into_stay_computed() -> None:
    class Written(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            kernel = torch.zeros(3, 1, 1, 1)
            kernel[0].fill_(1)
            kernel[1] = x.mean()
            return functional.conv2d(x, kernel, groups=3)

    program = fold_computed(torch.export.export(Written(), (IMAGE,)))
    assert not program.state_dict
    assert torch.equal(program.module()(2 * IMAGE), Written()(2 * IMAGE))


def test_weights_computed_from_the_image_stay_computed() -> None:
    class Attended(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.rand(3, 3, 1, 1))

        def forward(self, x: Tensor) -> Tensor:
            return functional.conv2d(x, self.weight * x.mean())

    program = torch.export.export(Attended(), (IMAGE,))
    assert list(fold_computed(program).state_dict) == ["weight"]
