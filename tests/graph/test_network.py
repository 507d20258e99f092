"""Dataflow, stages and blocks, on networks of every shape."""

import pytest
import torch
from helpers import networks
from torch import Tensor, nn
from torch.nn import functional

from srptq_plugin.costs.shapes import trace_shapes
from srptq_plugin.graph.export import export_network, graph_of
from srptq_plugin.graph.network import Network, OpKey, canonical_op, drop_identities, tensor_arguments
from srptq_plugin.graph.stages import Stages, find_blocks

STAGES = {
    "edsr": {
        "head": "head",
        "body": "body.0.first body.0.second body.1.first body.1.second body.2",
        "upsample": "grow",
        "tail": "tail",
    },
    "mixed": {
        "head": "head",
        "body": "left right fuse attention.squeeze attention.excite",
        "upsample": "grown",
        "tail": "tail",
    },
    "imdn": {
        "head": "head",
        "body": "block1.first block1.second block1.third block1.fuse "
        "block2.first block2.second block2.third block2.fuse gather.0 merge",
        "upsample": "",
        "tail": "upsampler.0",
    },
    "esrgan": {
        "head": "head",
        "body": "body.0.rdb1.conv1 body.0.rdb1.conv2 body.0.rdb2.conv1 body.0.rdb2.conv2 "
        "body.1.rdb1.conv1 body.1.rdb1.conv2 body.1.rdb2.conv1 body.1.rdb2.conv2 trunk",
        "upsample": "up high",
        "tail": "tail",
    },
    "shared": {"head": "head", "body": "block.first block.second", "upsample": "", "tail": "grow"},
    "bicubic": {"head": "head", "body": "block.first block.second", "upsample": "grow", "tail": "tail"},
}
STAGES["rdn"] = {
    "head": "SFENet1",
    "body": "SFENet2 RDBs.0.convs.0.conv.0 RDBs.0.convs.1.conv.0 RDBs.0.LFF "
    "RDBs.1.convs.0.conv.0 RDBs.1.convs.1.conv.0 RDBs.1.LFF GFF.0 GFF.1",
    "upsample": "UPNet.0",
    "tail": "UPNet.2",
}
RRDB = ("rdb1", "rdb2", "rdb3")
STAGES["rrdb"] = {
    "head": "conv_first",
    "body": " ".join(f"body.{n}.{each}.conv{k}" for n in (0, 1) for each in RRDB for k in range(1, 6)) + " conv_body",
    "upsample": "conv_up1 conv_up2 conv_hr",
    "tail": "conv_last",
}
STAGES["scaled"] = STAGES["edsr"]
BLOCKS = {
    "edsr": "body.0/add body.1/add",
    "scaled": "body.0/add body.1/add",
    "imdn": "block1/add block2/add",
    "esrgan": "body.0/add body.1/add",
    "rdn": "RDBs.0/add RDBs.1/add",
    "rrdb": "body.0/add body.1/add",
    "shared": "head/conv block.first/conv block.second/conv block.first/conv.1 block.second/conv.1 grow/conv",
    "bicubic": "head/conv block.first/conv block.second/conv grow/conv tail/conv",
    "mixed": "head/conv left/conv right/conv fuse/conv attention.squeeze/conv attention.excite/conv "
    "grown/conv tail/conv",
}


def network_of(module: nn.Module) -> Network:
    return Network(graph_of(export_network(module)))


@pytest.fixture(params=[*networks.NETWORKS, "rdn", "rrdb"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_each_convolution_is_in_its_stage(kind: str) -> None:
    network = Network(networks.graph(kind))
    stages = Stages(network)
    found = {stage: set[str]() for stage in ("head", "body", "upsample", "tail")}
    for conv in network.convs:
        found[stages.of(conv)].add(network.keys[conv].path)
    assert found == {stage: set(paths.split()) for stage, paths in STAGES[kind].items()}


def test_every_operation_has_one_stage_and_stages_follow_each_other(kind: str) -> None:
    order = {"head": 0, "body": 1, "upsample": 2, "tail": 3}
    network = Network(networks.graph(kind))
    stages = Stages(network)
    for node, op in network.ops.items():
        if op == "output" or node not in network.varying:
            continue
        for _, source in network.edges_in(node):
            assert order[stages.of(source)] <= order[stages.of(node)], network.name(node)


def test_blocks_are_the_repeated_modules_or_the_convolutions(kind: str) -> None:
    network = Network(networks.graph(kind))
    assert [network.name(node) for node in find_blocks(network)] == BLOCKS[kind].split()


def test_names_are_unique_and_lead_back(kind: str) -> None:
    network = Network(networks.graph(kind))
    assert len(network.nodes) == len(network.ops)
    assert all(network.nodes[network.name(node)] is node for node in network.ops)


def test_the_names_of_modules_say_nothing_about_stages() -> None:
    """The same network with its modules renamed has the same stages."""

    class Renamed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tail, self.head = networks.conv(3, 6), networks.conv(6, 12)
            self.upsampler = networks.conv(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            shallow = self.tail(x)
            return torch.pixel_shuffle(self.head(shallow + self.upsampler(shallow)), 2)

    network = network_of(Renamed().eval())
    stages = Stages(network)
    found = {network.keys[conv].path: stages.of(conv) for conv in network.convs}
    assert found == {"tail": "head", "upsampler": "body", "head": "tail"}


def test_mean_shifts_are_no_convolutions() -> None:
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

    network = network_of(Mix())
    assert [network.keys[conv].path for conv in network.convs] == ["mix", "tail"]


@pytest.mark.parametrize(
    ("kind", "name"),
    [("edsr", "sub_mean/conv"), ("mixed", "/sub"), ("imdn", "/input"), ("bicubic", "/input")],
)
@pytest.mark.parametrize("image", [(0.0, 1.0), (0.0, 255.0), (-1.0, 1.0)])
def test_the_image_has_its_exact_range_also_shifted(kind: str, name: str, image: tuple[float, float]) -> None:
    network = Network(networks.graph(kind))
    shift = (0.45, 0.4) if "input" not in name else (0.0, 0.0)
    wanted = (image[0] - shift[0], image[1] - shift[1])
    assert network.image_bounds(network.nodes[name], image) == pytest.approx(wanted, abs=1e-5)


def test_a_feature_map_is_no_image() -> None:
    network = Network(networks.graph("mixed"))
    assert network.image_bounds(network.nodes["head/conv"], (0.0, 1.0)) is None
    assert network.image_bounds(network.nodes["/interpolate"], (0.0, 1.0)) is None


def test_an_image_scaled_per_color_has_the_extremes_of_any_color() -> None:
    class Normalized(nn.Module):
        std: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("std", torch.tensor([0.5, -0.25, 1.0])[:, None, None])
            self.head = networks.conv(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head((x - 0.5) / self.std)

    network = network_of(Normalized().eval())
    assert network.image_bounds(network.nodes["/div"], (0.0, 1.0)) == pytest.approx((-2.0, 2.0))


def test_an_image_that_is_padded_by_reflection_has_its_exact_range() -> None:
    class Padded(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return functional.pad(x, (0, -x.shape[3] % 16, 0, -x.shape[2] % 16), mode="reflect") * 2

    network = network_of(Padded())
    assert network.image_bounds(network.nodes["/mul"], (0.0, 1.0)) == (0.0, 2.0)


@pytest.mark.parametrize(
    ("kind", "name", "expected"),
    [("edsr", "body.0/relu", True), ("edsr", "body.0/add", False), ("mixed", "attention/sigmoid", True),
     ("mixed", "/leaky_relu", False), ("mixed", "/getitem", False)],
)  # fmt: skip
def test_nonnegative_by_construction(kind: str, name: str, *, expected: bool) -> None:
    network = Network(networks.graph(kind))
    assert network.is_nonnegative(network.nodes[name]) is expected


def test_movement_keeps_a_tensor_nonnegative() -> None:
    class Moved(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head, self.tail = networks.conv(3, 12), networks.conv(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.tail(torch.pixel_shuffle(torch.relu(self.head(x)), 2))

    network = network_of(Moved())
    assert network.is_nonnegative(network.nodes["/pixel_shuffle"])


@pytest.mark.parametrize("factor", [1.0, 1])
def test_what_changes_nothing_is_taken_out(factor: float) -> None:
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


def test_a_view_of_a_copy_still_runs_without_the_copy() -> None:
    class Shuffled(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            count, channels, height, width = x.shape
            return x.transpose(2, 3).contiguous().view(count, channels, height, width)

    module, image = Shuffled(), networks.images()
    network = network_of(module)
    assert list(network.ops.values()) == ["input", "permute", "reshape", "output"]
    assert torch.equal(network.module(image), module(image))
    assert trace_shapes(network, (1, 3, 4, 6))[network.nodes["/reshape"]].sides == (1, 3, 4, 6)


def test_a_copy_of_what_changes_in_place_stays() -> None:
    class Kept(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head, self.act = networks.conv(3, 3), nn.ReLU(inplace=True)

        def forward(self, x: Tensor) -> Tensor:
            features = self.head(x)
            kept = features.clone()
            return self.act(features) + kept

    module, image = Kept(), networks.images()
    assert torch.equal(network_of(module).module(image), module(image))


def test_a_concat_of_one_is_taken_out() -> None:
    class Lonely(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([torch.cat([x], dim=1), x], dim=1)

    network = Network(drop_identities(export_network(Lonely()).module()))
    assert list(network.nodes) == ["/input", "/cat", "/output"]


def test_what_a_toolkit_inserts_does_not_count_among_the_network_s_own_operations() -> None:
    class Inserted(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x + 1.0) + x

    network, other = network_of(networks.network("imdn")), network_of(Inserted())
    names, graph = list(network.nodes), network.module.graph
    with graph.inserting_after(network.input):
        for add in (node for node, op in other.ops.items() if op == "add"):
            graph.node_copy(add, lambda _: network.input)
    found = list(Network(network.module).nodes)
    assert [name for name in found if name in names] == names
    assert {"(inserted)/add", "(inserted)/add.1"} == set(found) - set(names)


def test_sizes_are_no_feature_maps() -> None:
    class Odd(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return functional.pad(x, (0, -x.shape[3] % 2, 0, -x.shape[2] % 2), mode="replicate")

    network = network_of(Odd())
    pad = network.nodes["/pad"]
    assert list(network.ops.values()) == ["input", "pad", "output"]
    assert network.edges_in(pad) == [(0, network.input)]


def test_a_scaled_residual_leaves_the_keys_alone() -> None:
    scaled, plain = (list(Network(networks.graph(kind)).nodes) for kind in ("scaled", "edsr"))
    assert scaled == plain


def test_a_parameter_is_found_by_its_place() -> None:
    network = Network(networks.graph("shared"))
    convs = [network.nodes[name] for name in ("block.first/conv", "block.first/conv.1")]
    found = [network.parameter(conv, 1) for conv in convs]
    assert [each[0] for each in found if each] == ["block.first.weight"] * 2
    assert network.parameter(convs[0], 0) is None
    assert network.parameter(convs[0], 7) is None


def test_lists_of_arguments_are_taken_apart() -> None:
    network = Network(networks.graph("mixed"))
    sources = [network.name(node) for node in tensor_arguments(network.nodes["/cat"])]
    assert sources == ["/leaky_relu", "right/conv"]


@pytest.mark.parametrize(
    ("name", "word"),
    [("aten.conv2d.default", "conv"), ("relu_", "relu"), ("conv2d", "conv"), ("aten.mul.Tensor", "mul"),
     ("aten.split_with_sizes.default", "split"), ("upsample_nearest2d", "nearest"), ("chunk", "split")],
)  # fmt: skip
def test_one_word_for_an_operation(name: str, word: str) -> None:
    assert canonical_op(name) == word


def test_keys_sort_and_print() -> None:
    assert sorted([OpKey("b", "conv"), OpKey("a", "conv", 1), OpKey("a", "conv")])[1].ordinal == 1
    assert str(OpKey("a", "conv", 1)) == "a/conv.1"
