"""Stages and blocks, on networks of every shape."""

import pytest
import torch
from helpers import networks
from torch import Tensor, nn

from srptq_plugin.graph.export import export_network, graph_of
from srptq_plugin.graph.network import Network
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
    "body": " ".join(f"body.{n}.{dense}.conv{k}" for n in (0, 1) for dense in RRDB for k in range(1, 6)) + " conv_body",
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


@pytest.fixture(params=[*networks.NETWORKS, "rdn", "rrdb"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_convolutions_are_in_their_stages(kind: str) -> None:
    network = Network(networks.graph(kind))
    stages = Stages(network)
    paths_by_stage = {stage: set[str]() for stage in ("head", "body", "upsample", "tail")}
    for conv in network.convs:
        paths_by_stage[stages.of(conv)].add(network.keys[conv].path)
    assert paths_by_stage == {stage: set(paths.split()) for stage, paths in STAGES[kind].items()}


def test_stages_follow_each_other(kind: str) -> None:
    order = {"head": 0, "body": 1, "upsample": 2, "tail": 3}
    network = Network(networks.graph(kind))
    stages = Stages(network)
    for node, op in network.ops.items():
        if op == "output" or node not in network.varying:
            continue
        for _, source in network.edges_in(node):
            assert order[stages.of(source)] <= order[stages.of(node)], network.name(node)


def test_blocks_are_repeated_modules_or_the_convolutions(kind: str) -> None:
    network = Network(networks.graph(kind))
    assert [network.name(node) for node in find_blocks(network)] == BLOCKS[kind].split()


def test_stages_do_not_depend_on_module_names() -> None:
    class Renamed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tail, self.head = networks.conv(3, 6), networks.conv(6, 12)
            self.upsampler = networks.conv(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            shallow = self.tail(x)
            return torch.pixel_shuffle(self.head(shallow + self.upsampler(shallow)), 2)

    network = Network(graph_of(export_network(Renamed().eval())))
    stages = Stages(network)
    stage_of_path = {network.keys[conv].path: stages.of(conv) for conv in network.convs}
    assert stage_of_path == {"tail": "head", "upsampler": "body", "head": "tail"}
