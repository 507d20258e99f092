"""Dataflow: operations and their keys, on networks of every shape."""

import pytest
import torch
from helpers import networks
from torch import Tensor, nn
from torch.nn import functional

from srptq_plugin.costs.shapes import trace_shapes
from srptq_plugin.graph.export import export_network, graph_of
from srptq_plugin.graph.network import Network, OpKey, drop_identities, tensor_arguments
from srptq_plugin.graph.operation_names import canonical_op


def exported(module: nn.Module) -> Network:
    return Network(graph_of(export_network(module)))


@pytest.fixture(params=[*networks.NETWORKS, "rdn", "rrdb"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_keys_are_unique_and_lead_back(kind: str) -> None:
    network = Network(networks.graph(kind))
    assert len(network.nodes) == len(network.ops)
    assert all(network.nodes[network.name(node)] is node for node in network.ops)


def test_mean_shifts_are_not_convolutions() -> None:
    network = Network(networks.graph("edsr"))
    shift = network.nodes["sub_mean/conv"]
    assert network.is_mean_shift(shift)
    assert shift not in network.convs
    assert "add_mean/conv" not in network.nodes


def test_a_learned_color_mix_is_a_convolution() -> None:
    class Mix(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mix, self.tail = nn.Conv2d(3, 3, 1), networks.conv(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.tail(torch.relu(self.mix(x)))

    network = exported(Mix())
    assert [network.keys[conv].path for conv in network.convs] == ["mix", "tail"]


@pytest.mark.parametrize(
    ("kind", "name", "expected"),
    [("edsr", "body.0/relu", True), ("edsr", "body.0/add", False), ("mixed", "attention/sigmoid", True),
     ("mixed", "/leaky_relu", False), ("mixed", "/getitem", False)],
)  # fmt: skip
def test_tensors_are_nonnegative_by_construction(kind: str, name: str, *, expected: bool) -> None:
    network = Network(networks.graph(kind))
    assert network.is_nonnegative(network.nodes[name]) is expected


def test_movement_keeps_a_tensor_nonnegative() -> None:
    class Moved(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head, self.tail = networks.conv(3, 12), networks.conv(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.tail(torch.pixel_shuffle(torch.relu(self.head(x)), 2))

    network = exported(Moved())
    assert network.is_nonnegative(network.nodes["/pixel_shuffle"])


@pytest.mark.parametrize("factor", [1.0, 1])
def test_identities_are_dropped(factor: float) -> None:
    class Idle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = networks.conv(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return (self.head(x * factor) / factor).clone() * 2.0

    module = export_network(Idle()).module()
    image = networks.images()
    before = module(image)
    ops = list(Network(drop_identities(module)).ops.values())
    assert ops == ["input", "conv", "mul", "output"]
    assert torch.equal(module(image), before)


def test_views_of_dropped_copies_still_run() -> None:
    class Shuffled(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            count, channels, height, width = x.shape
            return x.transpose(2, 3).contiguous().view(count, channels, height, width)

    module, image = Shuffled(), networks.images()
    network = exported(module)
    assert list(network.ops.values()) == ["input", "permute", "reshape", "output"]
    assert torch.equal(network.module(image), module(image))
    assert trace_shapes(network, (1, 3, 4, 6))[network.nodes["/reshape"]].sides == (1, 3, 4, 6)


def test_copies_of_tensors_changed_in_place_stay() -> None:
    class Copying(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head, self.act = networks.conv(3, 3), nn.ReLU(inplace=True)

        def forward(self, x: Tensor) -> Tensor:
            features = self.head(x)
            copied = features.clone()
            return self.act(features) + copied

    module, image = Copying(), networks.images()
    assert torch.equal(exported(module).module(image), module(image))


def test_a_concat_of_one_tensor_is_dropped() -> None:
    class Lonely(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([torch.cat([x], dim=1), x], dim=1)

    network = Network(drop_identities(export_network(Lonely()).module()))
    assert list(network.nodes) == ["/input", "/cat", "/output"]


def test_inserted_operations_leave_the_keys_alone() -> None:
    class Inserted(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x + 1.0) + x

    network, inserted = exported(networks.network("imdn")), exported(Inserted())
    before, graph = list(network.nodes), network.module.graph
    with graph.inserting_after(network.input):
        for add in (node for node, op in inserted.ops.items() if op == "add"):
            graph.node_copy(add, lambda _: network.input)
    after = list(Network(network.module).nodes)
    assert [key for key in after if key in before] == before
    assert {"(inserted)/add", "(inserted)/add.1"} == set(after) - set(before)


def test_sizes_are_not_feature_maps() -> None:
    class Odd(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return functional.pad(x, (0, -x.shape[3] % 2, 0, -x.shape[2] % 2), mode="replicate")

    network = exported(Odd())
    pad = network.nodes["/pad"]
    assert list(network.ops.values()) == ["input", "pad", "output"]
    assert network.edges_in(pad) == [(0, network.input)]


def test_a_scaled_residual_leaves_the_keys_alone() -> None:
    scaled, plain = (list(Network(networks.graph(kind)).nodes) for kind in ("scaled", "edsr"))
    assert scaled == plain


def test_parameters_are_read_by_argument_index() -> None:
    network = Network(networks.graph("shared"))
    convs = [network.nodes[name] for name in ("block.first/conv", "block.first/conv.1")]
    parameters = [network.parameter(conv, 1) for conv in convs]
    assert [parameter[0] for parameter in parameters if parameter] == ["block.first.weight"] * 2
    assert network.parameter(convs[0], 0) is None
    assert network.parameter(convs[0], 7) is None


def test_lists_of_arguments_are_flattened() -> None:
    network = Network(networks.graph("mixed"))
    sources = [network.name(node) for node in tensor_arguments(network.nodes["/cat"])]
    assert sources == ["/leaky_relu", "right/conv"]


@pytest.mark.parametrize(
    ("name", "word"),
    [("aten.conv2d.default", "conv"), ("relu_", "relu"), ("conv2d", "conv"), ("aten.mul.Tensor", "mul"),
     ("aten.split_with_sizes.default", "split"), ("upsample_nearest2d", "nearest"), ("chunk", "split")],
)  # fmt: skip
def test_names_of_operations_are_canonical(name: str, word: str) -> None:
    assert canonical_op(name) == word


def test_keys_sort_and_print() -> None:
    assert sorted([OpKey("b", "conv"), OpKey("a", "conv", 1), OpKey("a", "conv")])[1].ordinal == 1
    assert str(OpKey("a", "conv", 1)) == "a/conv.1"
