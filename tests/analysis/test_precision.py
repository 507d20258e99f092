from functools import cache
from itertools import pairwise, product
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import networks

from srptq_plugin.analysis.allocate import Measure
from srptq_plugin.analysis.precision import POINTS, Budget, Precision, Unit
from srptq_plugin.analysis.widths import Uniform, at_every_width, mixed, recipe_of, uniform
from srptq_plugin.calibration.calibrator import Calibrator
from srptq_plugin.calibration.inputs import Inputs, Source
from srptq_plugin.data.images import Image, to_pixels, to_tensor
from srptq_plugin.errors import SrptqError
from srptq_plugin.evaluation.pairs import Pair
from srptq_plugin.planning.prepared_graph import PreparedGraph
from srptq_plugin.plugins.bound_recipe import BoundRecipe
from srptq_plugin.plugins.registry import Registry
from srptq_plugin.recipes.recipe import Recipe

SMALL = ["calibration.patches=4", "calibration.size=24", "reconstruction=null"]


@cache
def inputs(recipe: str = "paper-w4a4") -> Inputs:
    registry = Registry()
    return Inputs.load(BoundRecipe.resolve(recipe, registry, overrides=SMALL), Source(networks.network("edsr")), "cpu")


@cache
def measured() -> list[Uniform]:
    return at_every_width(inputs(), 2, (3, 4, 8))


@cache
def precision(by: Unit = "site") -> Precision:
    return Precision(measured(), by)


def own_pairs() -> list[Pair]:
    """Truths that the float network comes close to."""
    rng = np.random.default_rng(0)
    low = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
    with torch.no_grad():
        output = PreparedGraph.float_only(networks.graph("edsr"))(to_tensor(low[None], networks.UNIT))[0]
    high = to_pixels(output, networks.UNIT) + rng.normal(0, 4, (32, 32, 3))
    return [Pair(Image("a", low), Image("a", high.clip(0, 255).round().astype(np.uint8)))]


@pytest.mark.parametrize("measure", ["size", "bops"])
@pytest.mark.parametrize("share", [0.4, 0.5, 0.8])
def test_a_mixture_costs_what_was_asked_and_expects_less_noise_than_fewer_bits(measure: str, share: float) -> None:
    made = precision()
    found = made.within(Budget(measure, share))  # pyright: ignore[reportArgumentType]
    assert getattr(found, measure) <= share
    uniforms = made.record()["uniform"]
    within = [each["expected_noise"] for each in uniforms if each[measure] <= share]
    assert found.expected <= min(within)


def test_eight_bits_everywhere_cost_one() -> None:
    eight = precision().record()["uniform"][-1]
    assert (eight["width"], eight["size"], eight["bops"]) == (8, 1, 1)


@pytest.mark.parametrize("budget", [Budget("bops", 0.3), Budget("size", 0.45)])
def test_the_recipe_gives_the_very_numbers_that_were_measured(budget: Budget, tmp_path: Path) -> None:
    found = precision().within(budget)
    assert len(set(found.bits.values())) > 1
    table = mixed(measured(), found.bits)
    written = recipe_of(inputs(), table.plan, found.bits)
    (tmp_path / "mixed.yaml").write_text(written.to_yaml())
    again = Inputs.load(
        BoundRecipe.of(Recipe.load(tmp_path / "mixed.yaml"), Registry()), Source(networks.network("edsr")), "cpu"
    )
    _, own = Calibrator(again).run()
    assert own.plan.sites == table.plan.sites
    for name, qparams in table.qparams.items():
        assert own.qparams[name].grid.bits == found.bits[next(s for s in table.plan.sites if s.name == name).group]
        assert torch.equal(own.qparams[name].scale, qparams.scale)
        assert torch.equal(own.qparams[name].zero_point, qparams.zero_point)
    assert all(torch.equal(own.weights[name], each) for name, each in table.weights.items())


def test_stages_are_tied() -> None:
    found = precision("stage").within(Budget("bops", 0.4))
    by_stage: dict[tuple[str, str], set[int]] = {}
    for group, sites in precision().plan.groups.items():
        by_stage.setdefault((sites[0].stage, sites[0].role), set()).add(found.bits[group])
    assert all(len(bits) == 1 for bits in by_stage.values())
    assert found.expected >= precision().within(Budget("bops", 0.4)).expected


@pytest.mark.parametrize("budget", [Budget("size", 0.1), Budget("bops", 0.01)])
def test_a_budget_that_nothing_meets_says_the_nearest(budget: Budget) -> None:
    with pytest.raises(SrptqError, match=rf"budget {budget}: .* the least is {budget.measure}=0\.\d+") as refusal:
        precision().within(budget)
    least = float(str(refusal.value).rpartition("=")[2])
    assert getattr(precision().within(Budget(budget.measure, least * 1.0001)), budget.measure) <= least * 1.0001


def test_a_drop_needs_the_truth() -> None:
    with pytest.raises(SrptqError, match="give high-resolution images with --data"):
        precision().within(Budget("drop", 0.1))


def test_a_drop_is_kept_and_costs_less_than_the_most_bits() -> None:
    made = Precision(measured(), "stage", own_pairs())
    plain = made.plain.psnr_y or 0
    lost = [plain - each["psnr_y"] for each in made.record()["uniform"]]
    asked = (lost[-1] + lost[1]) / 2
    found = made.within(Budget("drop", asked))
    assert plain - (found.quality.psnr_y or 0) <= asked
    assert found.bops < 1


def test_one_width_is_no_choice() -> None:
    with pytest.raises(SrptqError, match=r"bits 32: paper has 1, 2, .*; give two of these at least"):
        at_every_width(inputs(), 2, (32,))


def test_levels_of_each_image_are_refused() -> None:
    with pytest.raises(SrptqError, match=r"activations\.quantizer: daq has no bounds"):
        at_every_width(inputs("paper-w4a4-daq"), 2, (2, 4))


@pytest.mark.parametrize(("name", "bits"), list(product(["snpe-w8a16", "openvino-w4a4", "paper-w4a4-best"], [4, 8])))
def test_a_uniform_recipe_is_one_that_the_target_runs(name: str, bits: int) -> None:
    registry = Registry()
    recipe = Recipe.load(name)
    made = uniform(recipe, BoundRecipe.of(recipe, registry).rules, bits)
    rules = BoundRecipe.of(made, registry).rules
    assert made.weights.bits == bits
    assert made.activations.bits in rules.activation_bits
    assert all(each.weights is None and each.activations is None for each in made.stages.values())


@pytest.mark.parametrize("measure", ["size", "bops"])
def test_a_curve_goes_from_the_least_to_the_most_and_noise_falls(measure: Measure) -> None:
    made = precision()
    found = made.curve(measure)
    costs = [getattr(each, measure) for each in found]
    whole = made.problem.cost(measure, made.eight)
    assert len(found) == POINTS
    assert costs[0] == made.problem.cost(measure, made.problem.least()) / whole
    assert costs[-1] <= made.problem.cost(measure, made.problem.most()) / whole
    assert all(former.expected >= latter.expected for former, latter in pairwise(found))
    assert found[-1].expected == pytest.approx(sum(min(each.noise.values()) for each in made.problem.choices))
    assert found[0].point() == {**found[0].costs(), "noise": found[0].quality.noise, "psnr": found[0].quality.psnr}


def test_a_curve_does_better_than_the_same_bits_everywhere() -> None:
    made = precision()
    for same in made.record()["uniform"]:
        dearer = [each.expected for each in made.curve("bops") if each.bops >= same["bops"]]
        assert max(dearer) <= same["expected_noise"] * 1.0001
