"""Bits of skip connections: the edges that have them, and the operations that stay float with them."""

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
from srptq_plugin.models.srgan import SRGANGenerator
from srptq_plugin.models.srresnet import SRResNet
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


def planned(kind: str, recipe: Recipe, rules: Rules | None = None) -> Plan:
    return make_plan(network(kind), rules or BoundRecipe.of(recipe, Registry()).rules, recipe, networks.UNIT)


def by_edge(plan: Plan) -> dict[Edge, Site]:
    return {edge: site for site in plan.sites for edge in site.consumers if site.role == "activation"}


def magnitude(site: Site) -> int:
    """Return the bits without the sign bit that the preset adds."""
    return site.grid.bits - site.grid.signed


def inner_adds(kind: str) -> list[str]:
    """List the adds of feature maps, without the add of the enlarged image."""
    graph = network(kind)
    adds = [node for node, op in graph.ops.items() if op == "add" and len(graph.edges_in(node)) == 2]
    return [graph.name(node) for node in adds if not _adds_the_image(graph, node)]


def _adds_the_image(graph: Network, node: Any) -> bool:
    return any(graph.ops[source] == "interpolate" for _, source in graph.edges_in(node))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("bits", "skips"), [(4, 8), (6, 6), (6, 8), (8, 8)])
def test_adds_read_skip_bits_and_convolutions_their_own(kind: str, bits: int, skips: int) -> None:
    plan = planned(kind, recipe(bits, skips={"bits": skips}))
    edges, adds = by_edge(plan), inner_adds(kind)
    assert adds
    for add in adds:
        assert [magnitude(edges[Edge(add, argument)]) for argument in (0, 1)] == [skips, skips]
    for conv in plan.convs:
        site = edges[Edge(conv, 0)]
        assert magnitude(site) == (8 if site.stage in ("head", "tail") else bits)


@pytest.mark.parametrize("kind", KINDS)
def test_float_skips_leave_convolutions_unchanged(kind: str) -> None:
    plan = planned(kind, recipe(4, skips=FLOAT))
    whole = planned(kind, recipe(4))
    read = {edge.consumer for edge in by_edge(plan)}
    assert not read & set(inner_adds(kind))
    assert plan.convs == whole.convs
    for conv in plan.convs:
        assert by_edge(plan)[Edge(conv, 0)].grid == by_edge(whole)[Edge(conv, 0)].grid
    assert all("by recipe" in plan.floats[add] for add in inner_adds(kind))


@pytest.mark.parametrize("kind", KINDS)
def test_skips_have_the_activation_bits_by_default(kind: str) -> None:
    assert planned(kind, recipe(8)).sites == planned(kind, recipe(8, skips={"bits": 8})).sites


def test_folded_batch_norms_leave_skips_of_convolutions() -> None:
    graph = network("srresnet with batch norms")
    assert "batch_norm" not in graph.ops.values()
    site = by_edge(planned("srresnet with batch norms", recipe(4, skips={"bits": 8})))[Edge("/add", 1)]
    assert graph.ops[graph.nodes[site.source]] == "conv"


def test_a_concat_reads_an_add_with_skip_bits() -> None:
    edges = by_edge(planned("imdn", recipe(4, skips={"bits": 8})))
    joined = Edge("/cat", 0)
    assert network("imdn").name(tensor_arguments(network("imdn").nodes["/cat"])[0]) == "block1/add"
    assert magnitude(edges[joined]) == 8
    assert magnitude(edges[Edge("block2.first/conv", 0)]) == 4
    assert edges[joined].source == edges[Edge("block2.first/conv", 0)].source == "block1/add"
    assert joined not in by_edge(planned("imdn", recipe(4, skips=FLOAT)))


def test_overrides_win_over_skip_bits() -> None:
    chosen = recipe(4, skips={"bits": 8}, overrides=[{"sites": "body.0/add", "bits": 6}])
    edges = by_edge(planned("edsr", chosen))
    assert magnitude(edges[Edge("body.0/add", 1)]) == 6
    assert magnitude(edges[Edge("body.1/add", 1)]) == 8
    single = recipe(4, skips={**FLOAT, "bits": 8}, overrides=[{"sites": "body.0/add", "quantize": True}])
    plan = planned("edsr", single)
    assert {edge.consumer for edge in by_edge(plan)} & set(inner_adds("edsr")) == {"body.0/add"}
    assert "body.0/add" not in plan.floats


def test_a_fused_add_has_skip_bits_once() -> None:
    edges = by_edge(planned("edsr", recipe(8, "openvino", skips={"bits": 4})))
    assert (edges[Edge("body.1/add", 0)].grid.bits, Edge("body.1/add", 1) in edges) == (4, False)
    assert edges[Edge("body.1.first/conv", 0)].grid.bits == 8


def test_readers_of_one_encoding_share_the_finer() -> None:
    edges = by_edge(planned("edsr", recipe(8, "snpe", skips={"bits": 16})))
    assert {edges[edge].grid.bits for edge in (Edge("/add", 0), Edge("body.0.first/conv", 0))} == {16}
    assert edges[Edge("body.0.second/conv", 0)].grid.bits == 8


def test_an_output_before_the_last_add_is_unchanged() -> None:
    plan = networks.plan("bicubic", networks.recipe(8, "onnxruntime", skips={"bits": 4}))
    (tail,) = [site for site in plan.sites if site.source == "tail/conv"]
    assert tail.grid.bits == 8
