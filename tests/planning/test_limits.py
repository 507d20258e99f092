"""Sites that only saturating activations read are observed within their limits."""

from dataclasses import replace

import pytest
import torch
from helpers import networks
from helpers.planned_sites import planned, sites
from torch import Tensor

from srptq_plugin.planning.plan import Plan
from srptq_plugin.planning.prepared_graph import PreparedGraph
from srptq_plugin.plugins.registry import Registry
from srptq_plugin.reconstruction.pac import reconstruct

OBSERVERS = [entry.name for entry in Registry(entry_points=False).entries("observer")]


def plan_of(observer: str = "minmax", bits: int = 8) -> Plan:
    return networks.plan("espcn", networks.recipe(bits, "onnxruntime", activations={"observer": observer}))


def observed(plan: Plan) -> PreparedGraph:
    prepared = networks.realize("espcn", plan)
    prepared.observe([networks.images(seed=seed) for seed in (1, 2)])
    return prepared


def noise(plan: Plan, images: Tensor) -> float:
    prepared = observed(plan)
    return prepared.noise(images, prepared.float_forward(images)[0])


def without_limits(plan: Plan) -> Plan:
    return replace(plan, sites=tuple(replace(site, limits=None) for site in plan.sites))


def test_only_inputs_of_saturating_activations_have_limits() -> None:
    known = planned("espcn", 8, "onnxruntime")
    limited = {name: site.limits for name, site in known.items() if site.limits is not None}
    assert limited.keys() == {"first/conv", "second/conv", "grow/conv"}
    assert limited["first/conv"] == limited["second/conv"] == pytest.approx((-3.8, 3.8), abs=0.05)
    assert limited["grow/conv"] == (0, 1)
    assert {site.limits for site in planned("edsr", 8, "onnxruntime").values()} == {None}


def test_limits_follow_the_bits_of_the_site() -> None:
    known = planned("espcn", 4, "onnxruntime")
    ends = {known[name].grid.bits: known[name].limits for name in ("first/conv", "second/conv")}
    assert ends[4] == pytest.approx((-2.4, 2.4), abs=0.05)


@pytest.mark.parametrize("observer", OBSERVERS)
def test_every_observer_chooses_bounds_within_limits(observer: str) -> None:
    bare = observed(without_limits(plan_of(observer))).quantizers["first/conv"]
    limited = observed(plan_of(observer)).quantizers["first/conv"]
    assert limited.observed is not None
    assert limited.limits is not None
    lower, upper = limited.observed.outermost
    assert -3.82 < lower < -2
    assert 2 < upper < 3.82
    assert bare.bounds.outermost[0] < -4


@pytest.mark.parametrize("observer", OBSERVERS)
def test_images_are_nearer_with_limits_than_without(observer: str) -> None:
    plan, images = plan_of(observer), networks.images(8, 24, 24, seed=5)
    assert noise(plan, images) < 0.8 * noise(without_limits(plan), images)


def test_sites_of_a_group_have_joint_limits() -> None:
    plan = plan_of()
    known = sites(plan)
    first, grow = (replace(known[name], group="shared") for name in ("first/conv", "grow/conv"))
    assert replace(plan, sites=(first, grow)).limits("shared") == first.limits
    assert replace(plan, sites=(first, replace(grow, limits=None))).limits("shared") is None


def test_a_reconstruction_may_pass_the_limits() -> None:
    prepared = observed(plan_of())
    quantizer = prepared.quantizers["first/conv"]
    with torch.no_grad():
        quantizer.upper.mul_(2)
    reconstruct(prepared, networks.images(4, seed=3), epochs=1, schedule="joint", activation_rate=1e-3)
    assert quantizer.limits is not None
    assert quantizer.bounds.upper > 5
