"""Bits of skip connections: which edges have them, and what stays float with them."""

from collections.abc import Mapping
from functools import cache
from typing import Any

import pytest
import torch
from helpers import networks
from torch import nn

from srptq_plugin.graph.export import export_network, graph_of
from srptq_plugin.graph.network import Network, tensor_arguments
from srptq_plugin.graph.rules import Rules
from srptq_plugin.models import SRGANGenerator, SRResNet
from srptq_plugin.planning.plan import Edge, Plan, Site
from srptq_plugin.planning.planner import make_plan
from srptq_plugin.plugins.bound_recipe import BoundRecipe
from srptq_plugin.plugins.registry import Registry
from srptq_plugin.recipes.recipe import Recipe

MODELS: Mapping[str, nn.Module] = {
    "edsr": networks.network("edsr"),
    "srresnet with batch norms": networks.network("normed"),
    "srresnet": SRResNet(2, features=6, blocks=2).eval(),
    "srgan": SRGANGenerator(2, features=6, blocks=2).eval(),
    "imdn": networks.network("imdn"),
}
KINDS = list(MODELS)
FLOAT = {"quantize": False}


@cache
def network(kind: str) -> Network:
    torch.manual_seed(3)
    return Network(graph_of(export_network(MODELS[kind])))


def recipe(bits: int = 4, target: str = "paper", **keys: Any) -> Recipe:
    preset = {"preset": "fqsr"} if target == "paper" else {}
    return networks.recipe(bits, target, **preset, **keys)


def planned(kind: str, chosen: Recipe, rules: Rules | None = None) -> Plan:
    return make_plan(network(kind), rules or BoundRecipe.of(chosen, Registry()).rules, chosen, networks.UNIT)


def by_edge(plan: Plan) -> dict[Edge, Site]:
    return {edge: site for site in plan.sites for edge in site.consumers if site.role == "activation"}


def magnitude(site: Site) -> int:
    """The bits without the sign that the preset adds."""
    return site.grid.bits - site.grid.signed


def inner_adds(kind: str) -> list[str]:
    """The adds of feature maps, but not what the image is added to."""
    found = network(kind)
    adds = [node for node, op in found.ops.items() if op == "add" and len(found.edges_in(node)) == 2]
    return [found.name(node) for node in adds if not _enlarges(found, node)]


def _enlarges(found: Network, node: Any) -> bool:
    return any(found.ops[source] == "interpolate" for _, source in found.edges_in(node))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("bits", "skips"), [(4, 8), (6, 6), (6, 8), (8, 8)])
def test_what_adds_read_has_the_skips_bits_and_what_convolutions_read_their_own(
    kind: str, bits: int, skips: int
) -> None:
    plan = planned(kind, recipe(bits, skips={"bits": skips}))
    edges, adds = by_edge(plan), inner_adds(kind)
    assert adds
    for add in adds:
        assert [magnitude(edges[Edge(add, place)]) for place in (0, 1)] == [skips, skips]
    for conv in plan.convs:
        site = edges[Edge(conv, 0)]
        assert magnitude(site) == (8 if site.stage in ("head", "tail") else bits)


@pytest.mark.parametrize("kind", KINDS)
def test_float_skips_leave_what_convolutions_read(kind: str) -> None:
    plan, whole = (planned(kind, recipe(4, skips=skips)) for skips in (FLOAT, {}))
    read = {edge.consumer for edge in by_edge(plan)}
    assert not read & set(inner_adds(kind))
    assert plan.convs == whole.convs
    for conv in plan.convs:
        assert by_edge(plan)[Edge(conv, 0)].grid == by_edge(whole)[Edge(conv, 0)].grid
    assert all("by recipe" in plan.floats[add] for add in inner_adds(kind))


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_word_about_them_they_have_the_features_bits(kind: str) -> None:
    silent, told = (planned(kind, recipe(8, skips=skips)) for skips in ({}, {"bits": 8}))
    assert silent.sites == told.sites


def test_batch_norms_are_folded_so_skips_come_from_convolutions() -> None:
    found = network("srresnet with batch norms")
    assert "batch_norm" not in found.ops.values()
    site = by_edge(planned("srresnet with batch norms", recipe(4, skips={"bits": 8})))[Edge("/add", 1)]
    assert found.ops[found.nodes[site.source]] == "conv"


def test_what_an_add_gives_has_them_where_no_convolution_reads_it() -> None:
    edges = by_edge(planned("imdn", recipe(4, skips={"bits": 8})))
    joined = Edge("/cat", 0)
    assert network("imdn").name(tensor_arguments(network("imdn").nodes["/cat"])[0]) == "block1/add"
    assert magnitude(edges[joined]) == 8
    assert magnitude(edges[Edge("block2.first/conv", 0)]) == 4
    assert edges[joined].source == edges[Edge("block2.first/conv", 0)].source == "block1/add"
    assert joined not in by_edge(planned("imdn", recipe(4, skips=FLOAT)))


def test_overrides_win() -> None:
    chosen = recipe(4, skips={"bits": 8}, overrides=[{"sites": "body.0/add", "bits": 6}])
    edges = by_edge(planned("edsr", chosen))
    assert magnitude(edges[Edge("body.0/add", 1)]) == 6
    assert magnitude(edges[Edge("body.1/add", 1)]) == 8
    one = recipe(4, skips={**FLOAT, "bits": 8}, overrides=[{"sites": "body.0/add", "quantize": True}])
    plan = planned("edsr", one)
    assert {edge.consumer for edge in by_edge(plan)} & set(inner_adds("edsr")) == {"body.0/add"}
    assert "body.0/add" not in plan.floats


def test_a_target_that_joins_adds_to_convolutions_has_them_on_the_skip_alone() -> None:
    edges = by_edge(planned("edsr", recipe(8, "openvino", skips={"bits": 4})))
    assert (edges[Edge("body.1/add", 0)].grid.bits, Edge("body.1/add", 1) in edges) == (4, False)
    assert edges[Edge("body.1.first/conv", 0)].grid.bits == 8


def test_where_a_tensor_has_one_encoding_its_readers_share_the_finer_one() -> None:
    edges = by_edge(planned("edsr", recipe(8, "snpe", skips={"bits": 16})))
    assert {edges[edge].grid.bits for edge in (Edge("/add", 0), Edge("body.0.first/conv", 0))} == {16}
    assert edges[Edge("body.0.second/conv", 0)].grid.bits == 8


def test_the_output_keeps_its_own_bits_where_the_image_is_added_last() -> None:
    plan = networks.plan("bicubic", networks.recipe(8, "onnxruntime", skips={"bits": 4}))
    (tail,) = [site for site in plan.sites if site.source == "tail/conv"]
    assert tail.grid.bits == 8
