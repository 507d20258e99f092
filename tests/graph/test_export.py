"""Export of a module: folding, image sizes, and refusals of torch.export."""

import pytest
import torch
from helpers import networks
from torch import Tensor, nn
from torch.nn import functional

from srptq_plugin.errors import SrptqError
from srptq_plugin.graph.batch_norms import fold
from srptq_plugin.graph.export import export_at_size, export_network, graph_of
from srptq_plugin.graph.network import Network
from srptq_plugin.planning.prepared_graph import PreparedGraph, fixed_size, takes_one_image


class Normed(nn.Module):
    """Batch norms behind convolutions with and without a bias, and one behind an add, which stays."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.first_norm = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.second, self.second_norm = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8, affine=False)
        self.last_norm = nn.BatchNorm2d(8)
        self.tail = nn.Conv2d(8, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.first_norm(self.first(x)))
        return self.tail(self.last_norm(y + self.second_norm(self.second(y))))


class Branching(nn.Module):
    """A network with a branch on a value, which torch.export refuses."""

    def forward(self, x: Tensor) -> Tensor:
        if x.mean() > 0.5:
            return x * 2
        return x


class OneSize(nn.Module):
    """A network that adds a map of one size."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.map = nn.Buffer(torch.zeros(1, 3, 47, 61))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) + self.map


def normed() -> Normed:
    torch.manual_seed(0)
    network = Normed()
    for norm in (network.first_norm, network.second_norm, network.last_norm):
        nn.init.uniform_(norm.running_mean, -1, 1)  # pyright: ignore[reportArgumentType]
        nn.init.uniform_(norm.running_var, 0.5, 2)  # pyright: ignore[reportArgumentType]
    nn.init.uniform_(network.first_norm.weight, 0.5, 2)
    return network.eval()


def shift(by: float) -> nn.Conv2d:
    """Return a frozen 1 x 1 convolution that shifts each color."""
    conv = nn.Conv2d(3, 3, 1).requires_grad_(requires_grad=False)
    conv.weight.copy_(torch.eye(3)[..., None, None])
    conv.bias.copy_(torch.tensor([by, 0.9 * by, 0.8 * by]))  # pyright: ignore[reportOptionalMemberAccess]
    return conv


def test_batch_norms_behind_convolutions_are_folded() -> None:
    network, image = normed(), torch.rand(2, 3, 9, 11)
    graph = graph_of(export_network(network))
    norms = [name for name in Network(graph).nodes if "norm" in name]
    assert len(norms) == 1
    assert norms[0].startswith("last_norm/")
    torch.testing.assert_close(graph(image), network(image), rtol=1e-5, atol=1e-5)


def test_exporting_leaves_the_network_unchanged() -> None:
    network = normed()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    export_network(network)
    assert isinstance(network.first_norm, nn.BatchNorm2d)
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


def test_only_mean_shifts_behind_a_convolution_are_folded() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(shift(-0.4), nn.Conv2d(3, 3, 3, padding=1), shift(0.4)).eval()
    graph, image = graph_of(export_network(network)), torch.rand(1, 3, 8, 8)
    assert [name for name in Network(graph).nodes if name.endswith("/conv")] == ["0/conv", "1/conv"]
    torch.testing.assert_close(graph(image), network(image), rtol=1e-5, atol=1e-6)


def test_no_norm_folds_into_a_shared_convolution() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            return y + self.norm(y)

    network = Twice().eval()
    assert fold(network, torch.export.export(network, (torch.zeros(2, 3, 8, 8),))) is None


def test_exports_take_any_size_unless_it_is_fixed() -> None:
    network = nn.Conv2d(3, 3, 3, padding=1)
    assert graph_of(export_network(network))(torch.zeros(5, 3, 7, 31)).shape == (5, 3, 7, 31)
    fixed = export_network(network, (1, 3, 8, 10)).module()
    with pytest.raises(Exception, match="10"):
        fixed(torch.zeros(1, 3, 8, 12))


def test_a_refusal_names_the_line_and_cure() -> None:
    with pytest.raises(
        SrptqError, match=r"Branching.*test_export\.py, line \d+, in forward: if x\.mean\(\) > 0\.5.*where"
    ):
        export_network(Branching())


class OneImage(nn.Module):
    """A network that takes one image at a time."""

    def forward(self, x: Tensor) -> Tensor:
        count, channels, height, width = x.shape
        assert count == 1
        return torch.relu(x.reshape(1, channels, height * width)).reshape(1, channels, height, width)


class Padded(nn.Module):
    """A network that pads to a multiple and crops. With `branches`, only if that is needed."""

    def __init__(self, *, branches: bool) -> None:
        super().__init__()
        self.branches, self.conv = branches, nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        height, more = x.shape[2], -x.shape[2] % 16
        padded = x if self.branches and more == 0 else functional.pad(x, (0, 0, 0, more), mode="reflect")
        return self.conv(padded)[:, :, :height]


class OneEvenImage(OneImage):
    """A network that takes one image at a time, of an even width."""

    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[3] % 2 == 0
        return super().forward(x)


def test_a_refusal_names_the_batch_and_image_size() -> None:
    with pytest.raises(SrptqError, match=r"on a batch of 2 of 47 x 61; at .*test_export\.py.*: assert x\.shape"):
        export_network(OneEvenImage())


def test_one_image_at_a_time_has_any_size() -> None:
    graph, image = graph_of(export_network(OneImage())), torch.rand(1, 3, 9, 14)
    assert torch.equal(graph(image), OneImage()(image))
    assert takes_one_image(graph)
    assert fixed_size(graph) is None


@pytest.mark.parametrize(("module", "batch"), [(OneSize(), 3), (OneImage(), 1)])
def test_a_fixed_size_still_takes_any_batch(module: nn.Module, batch: int) -> None:
    graph, image = graph_of(export_at_size(module, (1, 3, 47, 61))), torch.rand(batch, 3, 47, 61)
    assert torch.equal(graph(image), module(image))
    assert takes_one_image(graph) == (batch == 1)


class Different(nn.Module):
    """A network that computes something else where a number divides the height."""

    def __init__(self, divisor: int) -> None:
        super().__init__()
        self.divisor = divisor

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x) if x.shape[2] % self.divisor else torch.sigmoid(x)


@pytest.mark.parametrize(("divisor", "size"), [(16, "3 x 3 x 48 x 63"), (5, "2 x 3 x 50 x 55"), (7, "4 x 3 x 49 x 62")])
def test_wrong_assumptions_about_sizes_are_refused(divisor: int, size: str) -> None:
    with pytest.raises(SrptqError, match=rf"is another on {size} \(.*{divisor}.*\); give `input_size`"):
        export_network(Different(divisor))


@pytest.mark.parametrize("branches", [False, True])
@pytest.mark.parametrize("size", [(33, 21), (32, 48), (16, 7)])
def test_padding_works_with_and_without_branches(size: tuple[int, int], *, branches: bool) -> None:
    network, image = Padded(branches=branches), torch.rand(1, 3, *size)
    output = PreparedGraph.float_only(graph_of(export_network(network)))(image)
    torch.testing.assert_close(output, network(image))


class Cut(nn.Module):
    """A network that sums the part of an image up to a height."""

    def forward(self, x: Tensor) -> Tensor:
        height = 96 if x.shape[2] > 96 else x.shape[2]  # noqa: FURB136 - a branch
        return torch.relu(x[:, :, :height]).sum((2, 3), keepdim=True) + x


def test_a_network_of_small_images_is_refused() -> None:
    with pytest.raises(SrptqError, match=r"is another on 2 x 3 x 141 x 183 \(.*96\); give `input_size`"):
        export_network(Cut())


@pytest.mark.parametrize("size", [(24, 32), (33, 47), (120, 95)])
def test_windows_of_adaptive_pools_follow_the_size(size: tuple[int, int]) -> None:
    network, image = networks.network("safm"), torch.rand(2, 3, *size)
    torch.testing.assert_close(graph_of(networks.exported("safm"))(image), network(image))


def test_a_network_of_one_size_is_refused() -> None:
    with pytest.raises(SrptqError, match=r"runs at one image size only .* give `input_size`"):
        export_network(OneSize())
