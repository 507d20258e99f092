"""The changes that a target allows, and their prices."""

import pytest
from helpers import networks

from srptq_plugin.accuracy.finer_plans import Choice, FinerPlans
from srptq_plugin.accuracy.options import OptionFinder
from srptq_plugin.costs.cost import Costs
from srptq_plugin.graph.network import Network
from srptq_plugin.plugins.bound_recipe import BoundRecipe
from srptq_plugin.plugins.registry import Registry


def finder_of(target: str, bits: int = 8, kind: str = "edsr") -> OptionFinder:
    network = Network(networks.graph(kind))
    bound = BoundRecipe.of(networks.recipe(bits, target), Registry())
    costs = Costs.of(network, (1, 3, 24, 24))
    return OptionFinder(bound, network, bound.plan(network, networks.UNIT), networks.UNIT, costs)


def plans_of(finder: OptionFinder) -> FinerPlans:
    return FinerPlans(finder, finder.find(dict.fromkeys(finder.plan.groups, 1.0)))


@pytest.mark.parametrize("kind", ["edsr", "imdn", "shared"])
@pytest.mark.parametrize("target", ["openvino", "onnxruntime"])
def test_a_plan_leaves_the_noise_that_was_asked(target: str, kind: str) -> None:
    plans = plans_of(finder_of(target, kind=kind))
    for share in (0.8, 0.4):
        plan = plans.within(share)
        assert plan is not None
        assert plan.share <= share + 1e-6
        after = plan.bound.plan(plans.finder.network, networks.UNIT)
        assert len(after.sites) < len(plans.finder.plan.sites)
        assert not set(plan.choice.floats) & set(after.convs)


def test_less_noise_costs_more() -> None:
    plans = plans_of(finder_of("onnxruntime"))
    prices = [plan.choice.price for share in (0.9, 0.6, 0.3, 0.0) if (plan := plans.within(share))]
    assert prices == sorted(prices)
    assert len(set(prices)) > 2


def test_the_finest_plan_keeps_a_layer_in_integers() -> None:
    plans = plans_of(finder_of("openvino"))
    plan = plans.within(0.0)
    assert plan is not None
    assert plan.bound.plan(plans.finder.network, networks.UNIT).convs


def test_encodings_of_all_tensors_get_16_bits() -> None:
    plans = plans_of(finder_of("snpe"))
    assert not plans.options.needed
    assert {option.bits for option in plans.options.wider} == {16}
    plan = plans.within(0.5)
    assert plan is not None
    after = plan.bound.plan(plans.finder.network, networks.UNIT)
    assert {site.grid.bits for site in after.sites if site.role == "activation"} == {8, 16}
    BoundRecipe.of(plan.bound.recipe, Registry())


def test_few_bits_become_more_before_float() -> None:
    plan = plans_of(finder_of("openvino", bits=4)).within(0.5)
    assert plan is not None
    assert {bits for _, bits in plan.choice.bits} == {8}


def test_a_plan_without_noise_needs_no_change() -> None:
    assert plans_of(finder_of("openvino")).within(1.0) is None
    assert Choice() == Choice((), (), 0.0)
