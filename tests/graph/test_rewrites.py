"""Rewrites of a traced program leave its values as they are."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers import networks
from torch import Tensor, nn
from torch.nn import functional

from srptq_plugin.graph.export import export_network, fold_and_trace, graph_of
from srptq_plugin.graph.network import Network

Body = Callable[["Layers", Tensor], Tensor]


class Layers(nn.Module):
    """A convolution, somebody's operations, and two more convolutions."""

    def __init__(self, body: Body) -> None:
        super().__init__()
        self.body, self.head = body, networks.conv(3, 6)
        self.tail, self.other = networks.conv(6, 3), networks.conv(6, 3)
        self.grouped = nn.Conv2d(6, 6, 3, padding=1, groups=3)
        self.factor = nn.Parameter(torch.linspace(0.5, 2, 6))
        self.linear = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.tail(self.body(self, self.head(x)))


def channels_last(function: Callable[[Tensor], Tensor]) -> Body:
    return lambda _, x: function(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def tokens(x: Tensor) -> Tensor:
    return x.flatten(2).transpose(1, 2)


GONE: dict[str, tuple[Body, set[str]]] = {
    "silu": (lambda _, x: functional.silu(x), {"silu"}),
    "factors behind a convolution": (lambda net, x: x * net.factor.view(1, -1, 1, 1), {"mul"}),
    "factors before a convolution": (lambda net, x: torch.relu(x) * net.factor.view(-1, 1, 1), {"mul"}),
    "linear": (lambda net, x: net.linear(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), {"linear", "permute"}),
    "linear over tokens": (
        lambda net, x: net.linear(torch.tanh(net.linear(tokens(x)))).transpose(1, 2).reshape(x.shape),
        {"linear"},
    ),
    "gelu, halved first": (lambda _, x: x * 0.5 * (1 + torch.erf(x / math.sqrt(2))), {"erf", "add", "mul"}),
    "gelu, halved last": (lambda _, x: x * (torch.erf(x * math.sqrt(0.5)) + 1) * 0.5, {"erf", "add", "mul"}),
    "gelu, gate halved": (lambda _, x: (torch.erf(x / math.sqrt(2)) + 1) * 0.5 * x, {"erf", "add", "mul"}),
    "einsum": (lambda _, x: torch.einsum("bchw,bkhw->bhck", x, x)[:, :, :1].permute(0, 3, 1, 2) * x, {"einsum"}),
    "linear without a permutation": (lambda net, x: net.linear(x[..., :6]).repeat(1, 1, 1, 3)[..., :16], {"linear"}),
    "pointwise": (channels_last(torch.tanh), {"permute"}),
    "two axes counted from the end": (
        lambda net, x: net.linear(x.permute(0, -2, -1, 1)).permute(0, -1, 1, 2),
        {"linear", "permute"},
    ),
}
KEPT: dict[str, tuple[Body, str]] = {
    "erf with a factor of its own": (lambda _, x: x * 0.5 * (1 + torch.erf(x / 1.5)), "erf"),
    "erf that another map multiplies": (lambda _, x: x.sin() * 0.5 * (1 + torch.erf(x / math.sqrt(2))), "erf"),
    "half a gelu": (lambda _, x: x * (1 + torch.erf(x / math.sqrt(2))), "erf"),
    "erf that is read twice": (lambda _, x: x * 0.5 * (1 + (y := torch.erf(x / math.sqrt(2)))) + y, "erf"),
    "factors that two readers need": (
        lambda net, x: (y := torch.relu(x) * net.factor.view(-1, 1, 1)) + y.roll(1, 1),
        "mul",
    ),
    "factors before groups": (lambda net, x: net.grouped(torch.relu(x) * net.factor.view(-1, 1, 1)), "mul"),
    "factors by column": (lambda _, x: x * torch.ones(1, 1, 1, 16), "mul"),
    "a number": (lambda _, x: x * 0.25, "mul"),
    "two maps": (lambda _, x: x * torch.sigmoid(x), "mul"),
    "a convolution with two readers": (lambda _, x: torch.relu(x) + torch.tanh(x * 0.5), "mul"),
    "linear over columns": (lambda _, x: x @ torch.eye(16), "matmul"),
    "einsum over three": (lambda _, x: torch.einsum("bchw,bkhw,bkhw->bchw", x, x, x), "einsum"),
    "einsum without rows": (lambda _, x: torch.einsum("bchw,bchw->bhw", x, x)[:, None] * x, "einsum"),
    "other axes": (lambda _, x: torch.tanh(x.permute(0, 3, 2, 1)).permute(0, 3, 2, 1), "permute"),
}


def operations(body: Body) -> tuple[set[str], Tensor, Tensor]:
    """Return the operations of a rewritten network, its output and the output that it had."""
    torch.manual_seed(3)
    module, image = Layers(body).eval(), torch.rand(2, 3, 12, 16)
    graph = graph_of(export_network(module, (2, 3, 12, 16)))
    with torch.no_grad():
        return set(Network(graph).ops.values()), graph(image), module(image)


@pytest.mark.parametrize("name", [*GONE, *KEPT])
def test_values_stay(name: str) -> None:
    _, output, expected = operations((GONE.get(name) or KEPT[name])[0])
    torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", GONE)
def test_operations_without_kernels_are_gone(name: str) -> None:
    assert not GONE[name][1] & operations(GONE[name][0])[0]


@pytest.mark.parametrize("name", KEPT)
def test_others_stay(name: str) -> None:
    assert KEPT[name][1] in operations(KEPT[name][0])[0]


def test_the_network_keeps_its_weights() -> None:
    module = Layers(GONE["factors behind a convolution"][0]).eval()
    before = module.head.weight.clone()
    export_network(module)
    assert torch.equal(module.head.weight, before)


def test_new_operations_have_the_old_ones_module() -> None:
    network = Network(networks.graph("activations"))
    plain = Network(graph_of(fold_and_trace(networks.network("activations"))[1]))
    assert "silu" in plain.ops.values()
    assert {"/sigmoid", "/mul"} <= set(network.nodes)


def in_place(module: nn.Module) -> list[str]:
    graph = graph_of(export_network(module, (2, 3, 12, 16))).graph
    return [node.name for node in graph.nodes if str(node.target).rpartition(".")[0].endswith("_")]


def add_in_place(x: Tensor) -> Tensor:
    return x.add_(1)


def scale_in_place(x: Tensor) -> Tensor:
    return functional.gelu(x).mul_(2)


@pytest.mark.parametrize("last", [add_in_place, functional.silu, scale_in_place])
def test_a_rewritten_output_can_be_stored(last: Callable[[Tensor], Tensor], tmp_path: Path) -> None:
    class Ending(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tail = networks.conv(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return last(self.tail(x))

    program = export_network(Ending().eval())
    torch.export.save(program, tmp_path / "program.pt2")
    image = networks.images(1)
    stored = torch.export.load(tmp_path / "program.pt2").module()
    torch.testing.assert_close(stored(image), program.module()(image))


def test_operations_in_place_become_ordinary() -> None:
    def body(_: Layers, x: Tensor) -> Tensor:
        gate = torch.sigmoid(x)
        gate *= x
        return functional.silu(x, inplace=True) + x + gate.relu_()

    assert in_place(Layers(body).eval()) == []
    _, output, expected = operations(body)
    torch.testing.assert_close(output, expected)


def assigned(x: Tensor, part: slice) -> Tensor:
    x = torch.tanh(x)
    x[:, part] = torch.sigmoid(x[:, part])
    return x + 1


def seen_in_part(x: Tensor) -> Tensor:
    x = torch.tanh(x)
    part = x[:, :3]
    x[:, :2] *= 2
    return x + torch.cat([part, part], 1)


def seen_in_whole(x: Tensor) -> Tensor:
    x = torch.tanh(x.detach())
    left, right = x.chunk(2, 1)
    return x * torch.cat([left.relu_(), right], 1)


def apart(x: Tensor) -> Tensor:
    left, right = torch.tanh(x.detach()).chunk(2, 1)
    return torch.cat([left.relu_(), right], 1)


@pytest.mark.parametrize("part", [slice(2), slice(2, 5), slice(-2, None), slice(None), slice(1, -1)])
def test_changes_of_slices_become_concats(part: slice) -> None:
    def body(_: Layers, x: Tensor) -> Tensor:
        return assigned(x, part)

    assert in_place(Layers(body).eval()) == []
    _, output, expected = operations(body)
    torch.testing.assert_close(output, expected)


@pytest.mark.parametrize(("function", "stays"), [(seen_in_part, True), (seen_in_whole, True), (apart, False)])
def test_changes_that_other_views_show_stay(function: Callable[[Tensor], Tensor], *, stays: bool) -> None:
    def body(_: Layers, x: Tensor) -> Tensor:
        return function(x)

    assert bool(in_place(Layers(body).eval())) == stays
    _, output, expected = operations(body)
    torch.testing.assert_close(output, expected)


def test_a_pooled_map_of_one_channel_stays() -> None:
    def body(net: Layers, x: Tensor) -> Tensor:
        pooled = torch.tanh(x[:, :1].mean((2, 3), keepdim=True))
        return x * torch.relu(pooled) + net.grouped(x)

    module, image = Layers(body).eval(), torch.rand(1, 3, 12, 16)
    graph = graph_of(export_network(module, (1, 3, 12, 16)))
    torch.testing.assert_close(graph(image), module(image))


def test_a_mean_of_the_images_type_is_constant() -> None:
    def body(_: Layers, x: Tensor) -> Tensor:
        return x - torch.tensor([0.4, 0.5]).repeat(3).view(6, 1, 1).type_as(x)

    names, output, expected = operations(body)
    assert "type_as" not in names
    torch.testing.assert_close(output, expected)


class Normed(nn.Module):
    """Batch norms that the module tree does not tell from others: behind a concat of one tensor, and called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.tail = networks.conv(3, 6), nn.Conv2d(6, 3, 3, padding=1, bias=False)
        self.norm, self.last = nn.BatchNorm2d(6), nn.BatchNorm2d(3, affine=False)
        for norm in (self.norm, self.last):
            norm.running_mean = torch.rand(norm.num_features)
            norm.running_var = 0.5 + torch.rand(norm.num_features)

    def forward(self, x: Tensor) -> Tensor:
        first = self.norm(torch.cat([self.head(x)], 1))
        return self.last(self.tail(self.norm(self.head(x + 1)) + first))


def test_batch_norms_fold_wherever_they_are() -> None:
    torch.manual_seed(5)
    module, image = Normed().eval(), torch.rand(2, 3, 12, 16)
    graph = graph_of(export_network(module))
    assert "batch_norm" not in Network(graph).ops.values()
    torch.testing.assert_close(graph(image), module(image), rtol=1e-5, atol=1e-6)


def test_what_is_computed_twice_is_computed_once() -> None:
    def body(net: Layers, x: Tensor) -> Tensor:
        return torch.cat([net.linear.bias.sum() * torch.tanh(x), torch.tanh(x) + torch.tanh(x)], 1)[:, 3:9]

    module = Layers(body).eval()
    network = Network(graph_of(export_network(module)))
    assert list(network.ops.values()).count("tanh") == 1
    _, output, expected = operations(body)
    torch.testing.assert_close(output, expected)
