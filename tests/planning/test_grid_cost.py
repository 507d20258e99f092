"""The cost of a target's grid at a site, against independent arithmetic."""

import math

import pytest
import torch
from helpers import networks
from torch import Tensor

from srptq_plugin.planning.grid_cost import grid_costs, observed_bounds
from srptq_plugin.planning.prepared_graph import PreparedGraph
from srptq_plugin.quantization.grid import Bounds


def observed(kind: str, bits: int, target: str) -> PreparedGraph:
    return networks.calibrated(kind, bits, target, activations={"observer": "dbdc"})


def decibels(values: Tensor, rounded: Tensor) -> float:
    return 10 * math.log10(float(values.square().sum() / (values - rounded).square().sum()))


def test_figures_of_a_weight_match_plain_arithmetic() -> None:
    prepared = observed("shared", 4, "openvino")
    group, quantizer = next((g, q) for g, q in prepared.of_role("weight").items() if q.grid.bits == 4)
    cost = grid_costs(prepared, observed_bounds(prepared), networks.images(2))[group]
    weight = prepared.module.get_parameter(group).detach().double()
    low, high = (end.reshape(-1, 1, 1, 1) for end in (weight.amin((1, 2, 3)), weight.amax((1, 2, 3))))
    step = (high - low) / 15
    paper = ((weight - low) / step).round() * step + low
    scale = torch.maximum(-low, high) / 7
    target = (weight / scale).round().clamp(-7, 7) * scale
    assert quantizer.grid.narrow_range
    assert cost.paper == pytest.approx(decibels(weight, paper), abs=0.05)
    assert cost.target == pytest.approx(decibels(weight, target), abs=0.05)
    assert cost.cost == pytest.approx(cost.paper - cost.target)
    assert cost.won == 0


def test_the_papers_own_grid_costs_nothing() -> None:
    prepared = observed("edsr", 4, "paper")
    costs = grid_costs(prepared, observed_bounds(prepared), networks.images(2))
    assert [cost.cost for cost in costs.values()] == pytest.approx([0.0] * len(costs), abs=1e-6)


def test_symmetric_grids_cost_more_behind_a_relu() -> None:
    costs: dict[str, float] = {}
    for target in ("tensorrt", "openvino"):
        prepared = observed("edsr", 8, target)
        costs[target] = grid_costs(prepared, observed_bounds(prepared), networks.images(2))["body.0/relu"].cost
    assert costs["tensorrt"] > costs["openvino"] + 4


def test_only_tuned_sites_win_or_lose() -> None:
    prepared = observed("edsr", 4, "openvino")
    before = observed_bounds(prepared)
    images = networks.images(4)
    untuned = grid_costs(prepared, before, images)
    assert all(cost.won == 0 for cost in untuned.values())
    group, quantizer = next((g, q) for g, q in prepared.of_role("activation").items() if g in before)
    quantizer.set_bounds(Bounds.of(before[group].lower / 8, before[group].upper / 8))
    tuned = grid_costs(prepared, before, images)
    assert tuned[group].won < 0
    assert [cost.cost for cost in tuned.values()] == [cost.cost for cost in untuned.values()]
    assert [name for name in tuned if tuned[name].won] == [group]


def test_measuring_changes_no_output() -> None:
    prepared = observed("imdn", 4, "openvino")
    images = networks.images(2)
    before = prepared(images)
    grid_costs(prepared, observed_bounds(prepared), images)
    assert torch.equal(prepared(images), before)
