"""Sites that share an encoding, and tensors that have several."""

from dataclasses import replace

import torch
from helpers import networks
from helpers.planned_sites import RULES, overridden, planned, sites
from torch import Tensor, nn

from srptq_plugin.graph.export import export_network, graph_of
from srptq_plugin.graph.network import Network
from srptq_plugin.planning.plan import Edge
from srptq_plugin.planning.planner import make_plan


def test_readers_of_different_bits_have_two_sites() -> None:
    mixed = overridden("edsr", {"sites": "/add", "bits": 8})
    split = {name: site for name, site in mixed.items() if site.source == "head/conv"}
    assert set(split) == {"head/conv@8", "head/conv@4"}
    assert split["head/conv@8"].consumers == (Edge("/add", 0),)
    assert {edge.consumer for edge in split["head/conv@4"].consumers} == {"body.0.first/conv", "body.0/add"}
    assert len({site.group for site in split.values()}) == 2


def test_a_weight_with_two_readers_is_one_site() -> None:
    site = planned("shared")["block.first.weight"]
    assert site.consumers == (Edge("block.first/conv", 1), Edge("block.first/conv.1", 1))


def test_a_pixel_shuffle_shares_its_encoding() -> None:
    together = planned("edsr", target="onnxruntime")
    assert together["shuffle/pixel_shuffle"].group == together["grow/conv"].group
    apart = planned("edsr", 4, "onnxruntime")
    assert apart["shuffle/pixel_shuffle"].group != apart["grow/conv"].group


def test_the_parts_of_a_split_share_its_encoding() -> None:
    imdn = planned("imdn", target="onnxruntime")
    parts = ["block1/leaky_relu", "block1/getitem", "block1/getitem.1"]
    assert {imdn[name].group for name in parts} == {"block1/leaky_relu"}
    assert imdn["block2/getitem"].group == "block2/leaky_relu"


def test_a_concat_shares_its_scale_if_listed() -> None:
    chosen = networks.recipe()
    apart = sites(networks.plan("imdn", chosen, rules=RULES))
    shared = sites(networks.plan("imdn", chosen, rules=replace(RULES, shared_scales=frozenset({"cat"}))))
    parts = ["/cat", "block1/add", "block2/add"]
    assert apart["block1/add"].group != apart["/cat"].group == apart["block2/add"].group
    assert len({shared[name].group for name in parts}) == 1
    inner = ["block1/cat", "block1/getitem", "block1/getitem.2", "block1.third/conv"]
    assert len({shared[name].group for name in inner}) == 1


def test_dense_blocks_share_a_scale_through_concats() -> None:
    """Check both groups: the input of the first block is no output of a block, and has its own encoding."""
    shared: dict[str, set[str]] = {}
    for name, site in planned("rdn", target="tensorrt").items():
        shared.setdefault(site.group, set()).add(name)
    cats = [{f"RDBs.{block}.convs.{layer}/cat" for layer in (0, 1)} for block in (0, 1)]
    several = [group for group in shared.values() if len(group) > 1]
    assert several == [{"SFENet2/conv", *cats[0]}, {"RDBs.0/add", *cats[1], "/cat"}]


def test_what_only_a_concat_reads_has_its_scale() -> None:
    rdn = planned("rdn")
    cats = [site for site in rdn.values() if site.op == "cat"]
    inputs = [site for site in rdn.values() if any(edge.consumer.endswith("cat") for edge in site.consumers)]
    assert cats
    alone = [site for site in inputs if len(site.consumers) == 1]
    shared = [site for site in inputs if len(site.consumers) > 1 and site.op != "cat"]
    assert {site.group for site in alone} <= {site.group for site in cats}
    assert not {site.group for site in shared} & {site.group for site in cats}


def test_tensors_are_stored_once_if_rules_say() -> None:
    stored = sites(networks.plan("esa", networks.recipe(), rules=replace(RULES, stored_once=True)))
    both = sites(networks.plan("esa", networks.recipe(), rules=RULES))
    assert {edge.consumer for edge in stored["body/conv"].consumers} == {"reduce/conv", "/mul"}
    assert {edge.consumer for edge in both["body/conv"].consumers} >= {"reduce/conv"}
    assert "/sigmoid" not in stored


def test_a_relu_by_range_keeps_its_scale() -> None:
    rdn = planned("rdn", target="onnxruntime")
    relus = {site.group for site in rdn.values() if site.op == "relu"}
    assert relus
    assert not relus & {site.group for site in rdn.values() if site.op == "cat"}


def test_an_activation_rounds_what_a_concat_joined() -> None:
    class Joined(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head, self.tail = networks.conv(3, 6), networks.conv(12, 3)
            self.left, self.right = networks.conv(6, 6), networks.conv(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            shallow = self.head(x)
            return self.tail(torch.relu(torch.cat([self.left(shallow), self.right(shallow)], 1)))

    network = Network(graph_of(export_network(Joined().eval())))
    rules = replace(RULES, outputs=frozenset())
    behind = make_plan(network, replace(rules, stored_once=True), networks.recipe(), networks.UNIT)
    before = make_plan(network, rules, networks.recipe(), networks.UNIT)
    assert not {"left/conv", "right/conv"} & set(sites(behind))
    assert {"left/conv", "right/conv", "/relu"} <= set(sites(before)) | {"/relu"}
    assert "/relu" in sites(behind)
