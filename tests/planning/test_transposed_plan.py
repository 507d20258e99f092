"""Transposed convolutions in a plan: the axis of their weights, symmetric inputs, and why others stay float."""

from typing import Any

import pytest
from helpers import networks
from helpers.transposed import Fsrcnn
from torch import nn

from srptq_plugin.graph.export import export_network, graph_of
from srptq_plugin.graph.network import Network
from srptq_plugin.planning.plan import Edge, Plan
from srptq_plugin.planning.planner import make_plan
from srptq_plugin.plugins.bound_recipe import BoundRecipe
from srptq_plugin.plugins.registry import Registry
from srptq_plugin.qat.folding import convolutions


def planned(module: nn.Module, target: str, **keys: Any) -> Plan:
    bound = BoundRecipe.of(networks.recipe(8, target, **keys), Registry())
    network = Network(graph_of(export_network(module.eval())))
    return make_plan(network, bound.rules, bound.recipe, networks.UNIT)


@pytest.mark.parametrize("target", ["openvino", "snpe", "tensorrt"])
def test_weights_have_scales_along_the_second_axis(target: str) -> None:
    plan = planned(Fsrcnn(), target)
    assert "grow/conv_transpose" in plan.convs
    assert "grow/conv_transpose" not in plan.floats
    axes = {site.name: site.grid.channel_axis for site in plan.weights}
    assert axes == {"feature.0.weight": 0, "map.0.weight": 0, "grow.weight": 1}


def test_inputs_are_symmetric_in_openvino() -> None:
    edges = networks.plan("lapsrn", networks.recipe()).by_edge
    grids = {name: edges[Edge(f"{name}/conv_transpose", 0)].grid for name in ("image", "grow", "again")}
    assert {name: (grid.symmetric, grid.signed) for name, grid in grids.items()} == {
        "image": (True, True),
        "grow": (True, True),
        "again": (True, False),
    }
    assert not edges[Edge("residual/conv", 0)].grid.symmetric


@pytest.mark.parametrize(
    ("module", "target", "keys", "reason"),
    [
        (Fsrcnn(), "onnxruntime", {}, "no integer kernel on this target"),
        (Fsrcnn(stride=4), "openvino", {}, "its stride is 4, the target has integer kernels up to stride 3"),
        (Fsrcnn(groups=3), "openvino", {}, "transposed convolutions in groups have no integer kernel"),
        (Fsrcnn(groups=3), "tensorrt", {}, "transposed convolutions in groups have no integer kernel"),
        (
            Fsrcnn(), "openvino", {"weights": {"bits": 8, "per_channel": False}},
            "a transposed convolution needs `weights.per_channel: true` here",
        ),
        (Fsrcnn(), "openvino", {"overrides": [{"sites": "grow", "quantize": False}]}, "the recipe leaves it float"),
    ],
)  # fmt: skip
def test_float_ones_are_named_with_reasons(module: nn.Module, target: str, keys: dict[str, Any], reason: str) -> None:
    plan = planned(module, target, **keys)
    assert plan.floats["grow/conv_transpose"] == reason
    assert "grow/conv_transpose" not in plan.convs
    assert "grow.weight" not in {site.name for site in plan.weights}


def test_a_weight_of_both_kinds_stays_float() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.down = nn.Conv2d(3, 3, 3, padding=1)

        def forward(self, x: Any) -> Any:
            return nn.functional.conv_transpose2d(self.down(x), self.down.weight, padding=1)

    plan = planned(Tied(), "openvino")
    assert plan.floats["/conv_transpose"] == "a convolution reads its weight as well, along another axis"
    assert plan.convs == ("down/conv",)


def test_groups_have_one_scale_where_all_is_encoded() -> None:
    plan = planned(Fsrcnn(groups=3), "snpe")
    assert plan.floats == {}
    assert {site.name: site.grid.channel_axis for site in plan.weights}["grow.weight"] is None


def test_depthwise_means_a_group_for_each_channel() -> None:
    module = nn.Sequential(nn.ConvTranspose2d(3, 1, 2, 2), nn.Conv2d(1, 3, 3), nn.ConvTranspose2d(3, 3, 2, 2, groups=3))
    network = Network(graph_of(export_network(module.eval())))
    first, last = network.transposed
    assert not network.is_depthwise(first)
    assert network.is_depthwise(last)
    assert (network.groups(first), network.groups(last)) == (1, 3)


def test_training_knows_their_parameters() -> None:
    network = Network(networks.graph("fsrcnn"))
    names = dict(network.module.named_parameters())
    biases = {conv.weight: conv.bias for conv in convolutions(network, names, set(names))}
    assert biases["grow.weight"] == "grow.bias"
