"""The sites that the planner chooses, and their grids."""

from dataclasses import replace

import pytest
import torch
from helpers import networks
from helpers.planned_sites import KINDS, RULES, WEIGHT, overridden, planned, sites
from onnx import numpy_helper
from torch import nn

from srptq_plugin.deploy.onnx_export import OnnxNetwork
from srptq_plugin.errors import SrptqError
from srptq_plugin.graph.export import export_network, graph_of
from srptq_plugin.graph.fusion import Fusion
from srptq_plugin.graph.network import MOVEMENT, Network, OpKey, tensor_arguments
from srptq_plugin.models.imdn import IMDN
from srptq_plugin.planning.float_reasons import UNREAD
from srptq_plugin.planning.plan import Edge, Site
from srptq_plugin.planning.planner import make_plan
from srptq_plugin.plugins.bound_recipe import BoundRecipe
from srptq_plugin.plugins.registry import Registry
from srptq_plugin.quantization.grid import IntGrid
from srptq_plugin.recipes.recipe import Recipe

TARGETS = ["openvino", "onnxruntime"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("target", TARGETS)
def test_head_and_tail_keep_8_bits_under_4(kind: str, target: str) -> None:
    plan = networks.plan(kind, networks.recipe(4, target))
    for site in plan.sites:
        assert site.grid.bits == (8 if site.stage in ("head", "tail") else 4), site.name
    assert {site.stage for site in plan.sites if site.role == "weight"} >= {"head", "body", "tail"}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("target", TARGETS)
def test_each_planned_convolution_reads_integers_once(kind: str, target: str) -> None:
    network = Network(networks.graph(kind))
    plan = networks.plan(kind, networks.recipe(4, target))
    read = [edge for site in plan.sites for edge in site.consumers]
    assert len(read) == len(set(read))
    for conv in plan.convs:
        assert {Edge(conv, 0), Edge(conv, 1)} <= set(read)
    for site in plan.sites:
        for edge in site.consumers:
            source = tensor_arguments(network.nodes[edge.consumer])[edge.input_index]
            name = str(source.target).replace("L__self__", "") if site.role == "weight" else network.name(source)
            assert name == site.source


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("target", TARGETS)
def test_sites_are_unique_and_groups_have_one_grid(kind: str, target: str) -> None:
    plan = networks.plan(kind, networks.recipe(4, target))
    assert len(sites(plan)) == len(plan.sites)
    for group, members in plan.groups.items():
        assert len({site.grid for site in members}) == 1, group


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("placement", ["convs", "full"])
def test_operations_that_stay_float_have_a_reason(kind: str, placement: str) -> None:
    network = Network(networks.graph(kind))
    plan = networks.plan(kind, networks.recipe(8, placement=placement))
    edges = {edge.consumer: site.consumers for site in plan.sites for edge in site.consumers}
    # OpenVINO computes activations inside the convolution before them.
    silent = MOVEMENT | {"input", "output", "relu", "leaky_relu", "prelu", "tanh", "sigmoid"}
    for node in network.varying:
        name, op = network.name(node), network.ops[node]
        shift = op == "conv" and network.is_mean_shift(node)
        if name not in edges and op not in silent and not shift:
            assert plan.floats.get(name, ""), name
        if name in edges and name in plan.floats:
            assert len(edges[name]) > 1, "integers of a tensor that nothing else reads as integers"


def test_reasons_tell_pooled_maps_recipes_and_targets_apart() -> None:
    overrides = [{"sites": "left", "quantize": False}]
    floats = networks.plan("mixed", networks.recipe(overrides=overrides)).floats
    assert "pooled" in floats["attention.squeeze/conv"]
    assert "recipe" in floats["left/conv"]
    assert "no integer kernel" in floats["/sub"]


@pytest.mark.parametrize(
    ("kind", "name", "ends"),
    [
        ("imdn", "/input", (0.0, 1.0)),
        ("edsr", "sub_mean/conv", (-0.45, 0.6)),
        ("mixed", "/sub", (-0.45, 0.6)),
    ],
)
def test_the_image_has_its_exact_range(kind: str, name: str, ends: tuple[float, float]) -> None:
    sites_by_name = planned(kind)
    assert sites_by_name[name].bounds == pytest.approx(ends)
    assert [site.name for site in sites_by_name.values() if site.bounds is not None] == [name]


def test_placement_convs_quantizes_inputs_of_convolutions_only() -> None:
    convs = planned("edsr", placement="convs")
    assert {edge.input_index for site in convs.values() if site.role == "weight" for edge in site.consumers} == {1}
    edges = {edge for site in convs.values() if site.role == "activation" for edge in site.consumers}
    assert all(edge.consumer.endswith("/conv") and edge.input_index == 0 for edge in edges)
    assert len(edges) == 8
    full = planned("edsr", placement="full")
    joined = {edge for site in full.values() for edge in site.consumers} - edges
    adds = {edge.consumer for edge in joined if edge.consumer.endswith("add")}
    assert adds == {"body.0/add", "body.1/add"}  # and the long skip reads floats


def test_openvino_adds_the_long_skip_in_float() -> None:
    plan = networks.plan("edsr", networks.recipe())
    head = sites(plan)["head/conv"]
    assert [edge.consumer for edge in head.consumers] == ["body.0.first/conv", "body.0/add"]
    assert "long skip" in plan.floats["/add"]
    everywhere = networks.plan("edsr", networks.recipe(target="onnxruntime"))
    assert "/add" in {edge.consumer for edge in sites(everywhere)["head/conv"].consumers}
    assert "/add" not in everywhere.floats


@pytest.mark.parametrize("target", ["onnxruntime", "executorch", "litert"])
def test_results_that_only_floats_read_stay_float(target: str) -> None:
    """Leave the variance in the gate of IMDN float: no target has an integer square root, which alone reads it."""
    network = Network(graph_of(export_network(IMDN(upscale=2, features=16, blocks=2).eval())))
    plan = BoundRecipe.of(networks.recipe(8, target), Registry()).plan(network, (0.0, 1.0))
    assert plan.floats["IMDB1.cca/mean.1"] == UNREAD
    gate = {site.source for site in plan.sites if site.source.startswith("IMDB1.cca/")}
    assert gate & {f"IMDB1.cca/{op}" for op in ("sub", "pow", "mean.1", "mul")} == {"IMDB1.cca/mul"}


def test_fused_activations_come_before_the_quantizer() -> None:
    assert "body.0.first/conv" not in planned("edsr", target="onnxruntime")
    assert "block1.first/conv" in planned("imdn", target="onnxruntime")
    fused = replace(RULES, fusions=(Fusion("relu"), Fusion("leaky_relu")))
    assert "block1.first/conv" not in sites(networks.plan("imdn", networks.recipe(), rules=fused))


def test_snpe_fuses_leaky_relu_with_convolutions_only() -> None:
    fusing, not_fusing = (networks.recipe(8, "snpe", preset=preset) for preset in ("default", "dsp"))
    behind = {
        "block1/leaky_relu",
        "block1/leaky_relu.1",
        "block2/leaky_relu",
        "block2/leaky_relu.1",
        "gather.1/leaky_relu",
    }
    before = {"block1.first/conv", "block1.second/conv", "block2.first/conv", "block2.second/conv", "gather.0/conv"}
    assert before | behind <= sites(networks.plan("imdn", not_fusing)).keys()
    names = sites(networks.plan("imdn", fusing)).keys()
    assert behind <= names
    assert not before & names
    after_an_add = nn.Sequential(networks.conv(3, 6), networks.Residual(), nn.LeakyReLU(0.1), networks.conv(6, 3))
    network = Network(graph_of(export_network(after_an_add.eval())))
    plan = make_plan(network, BoundRecipe.of(fusing, Registry()).rules, fusing, networks.UNIT)
    assert {"1/add", "2/leaky_relu"} <= sites(plan).keys()


@pytest.mark.parametrize(("off", "left"), [("weights", "activation"), ("activations", "weight")])
def test_weights_or_activations_may_stay_float(off: str, left: str) -> None:
    whole = planned("edsr", target="paper")
    part = sites(networks.plan("edsr", networks.recipe(8, "paper", **{off: {"bits": 8, "quantize": False}})))
    assert part == {name: site for name, site in whole.items() if site.role == left}


def test_an_override_by_path_reaches_weights_and_inputs() -> None:
    bits = {name: site.grid.bits for name, site in overridden("edsr", {"sites": "body.1.*", "bits": 6}).items()}
    assert (bits["body.1.first.weight"], bits["body.1/relu"]) == (6, 6)
    assert (bits["body.0.first.weight"], bits["body.0/relu"]) == (4, 4)


def test_an_override_by_name_reaches_that_site_alone() -> None:
    plain = overridden("edsr")
    for name in ("body.0.first.weight", "body.1/relu"):
        special = overridden("edsr", {"sites": name, "bits": 7})
        changed = {site for site in special if special[site].grid != plain[site].grid}
        assert changed == {name}


def test_the_last_of_two_overrides_wins() -> None:
    both = overridden("edsr", {"sites": "*", "bits": 6}, {"sites": "tail.weight", "bits": 5})
    assert {site.grid.bits for name, site in both.items() if name != "tail.weight"} == {6}
    assert both["tail.weight"].grid.bits == 5


def test_bits_of_an_override_quantize_nothing_float() -> None:
    plan = networks.plan(
        "edsr",
        networks.recipe(8, stages={"head": {"quantize": False}}, overrides=[{"sites": "*", "bits": 6}]),
    )
    assert "head/conv" in plan.floats
    assert "head.weight" not in sites(plan)


@pytest.mark.parametrize("stage", ["head", "body", "upsample", "tail"])
def test_a_stage_can_be_left_float(stage: str) -> None:
    chosen = planned("edsr", stages={stage: {"quantize": False}})
    stages = {site.stage for site in chosen.values() if site.role == "weight"}
    assert stages == {"head", "body", "upsample", "tail"} - {stage}


def test_nonnegative_tensors_have_the_grid_for_them() -> None:
    symmetric = planned("edsr", preset="performance")
    assert symmetric["body.0/relu"].grid == IntGrid(8, symmetric=True)
    assert symmetric["body.0/add"].grid == IntGrid(8, signed=True, symmetric=True)


def test_weights_per_tensor_have_no_axis() -> None:
    per_tensor = planned("edsr", weights={"bits": 8, "per_channel": False})
    assert {site.grid.channel_axis for site in per_tensor.values()} == {None}
    assert planned("edsr")["head.weight"].grid.channel_axis == 0


def test_nothing_to_quantize_is_refused() -> None:
    with pytest.raises(SrptqError, match="nothing to quantize"):
        networks.plan("edsr", networks.recipe(overrides=[{"sites": "*", "quantize": False}]))


def test_residuals_times_one_change_no_plan() -> None:
    scaled, plain = (networks.plan(kind, networks.recipe(4)) for kind in ("scaled", "edsr"))
    assert (scaled.sites, scaled.blocks) == (plain.sites, plain.blocks)
    assert (scaled.convs, scaled.floats) == (plain.convs, plain.floats)


def test_a_plan_is_the_same_every_time() -> None:
    chosen = Recipe.load("openvino-w8a8")
    assert networks.plan("mixed", chosen).sites == networks.plan("mixed", chosen).sites


OPS = [
    "conv",
    "add",
    "sub",
    "mul",
    "cat",
    "pad",
    "pixel_shuffle",
    "relu",
    "leaky_relu",
    "prelu",
    "tanh",
    "sigmoid",
    "nearest",
    "interpolate",
    "clamp",
]


@pytest.mark.parametrize("kind", KINDS)
def test_the_onnx_file_has_the_same_keys(kind: str) -> None:
    """Compare weights as well: names alone could agree on the wrong nodes."""
    file = OnnxNetwork(networks.float_model(kind))
    network = Network(networks.graph(kind))
    expected = {name for name, node in network.nodes.items() if network.ops[node] in OPS}
    assert {name for name in file.nodes if name.rpartition("/")[2].partition(".")[0] in OPS} == expected
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in file.model.graph.initializer}
    for conv in network.convs:
        parameter = network.parameter(conv, 1)
        assert parameter is not None
        weight = constants[file.nodes[network.name(conv)].input[1]]
        assert torch.equal(torch.tensor(weight), parameter[1])


def test_a_weight_has_no_op_whatever_its_name() -> None:
    weight = Site("pad.weight", "weight", "body", WEIGHT, None, (Edge("pad/conv", 1),), group="pad.weight")
    moved = Site(
        "body/pad", "activation", "body", IntGrid(8), OpKey("body", "pad", 1), (Edge("pad/conv", 0),), group="body/pad"
    )
    assert (weight.op, moved.op) == ("", "pad")
