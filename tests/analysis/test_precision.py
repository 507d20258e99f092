from functools import cache
from itertools import pairwise, product
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import networks

from srptq_plugin.analysis.allocate import Measure
from srptq_plugin.analysis.precision import POINTS, Budget, Precision, Unit
from srptq_plugin.analysis.widths import Uniform, at_every_width, mixed, mixed_recipe, uniform_recipe
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
    """Make a pair whose truth is the float network's output with noise."""
    rng = np.random.default_rng(0)
    low = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
    with torch.no_grad():
        output = PreparedGraph.float_only(networks.graph("edsr"))(to_tensor(low[None], networks.UNIT))[0]
    high = to_pixels(output, networks.UNIT) + rng.normal(0, 4, (32, 32, 3))
    return [Pair(Image("a", low), Image("a", high.clip(0, 255).round().astype(np.uint8)))]


@pytest.mark.parametrize("measure", ["size", "bops"])
@pytest.mark.parametrize("share", [0.4, 0.5, 0.8])
def test_mixture_keeps_the_budget_with_least_noise(measure: str, share: float) -> None:
    mixture = precision().within(Budget(measure, share))  # pyright: ignore[reportArgumentType]
    assert getattr(mixture, measure) <= share
    uniforms = precision().record()["uniform"]
    within = [uniform["expected_noise"] for uniform in uniforms if uniform[measure] <= share]
    assert mixture.expected <= min(within)


def test_eight_bits_everywhere_cost_one() -> None:
    eight = precision().record()["uniform"][-1]
    assert (eight["width"], eight["size"], eight["bops"]) == (8, 1, 1)


@pytest.mark.parametrize("budget", [Budget("bops", 0.3), Budget("size", 0.45)])
def test_recipe_gives_the_measured_numbers(budget: Budget, tmp_path: Path) -> None:
    mixture = precision().within(budget)
    assert len(set(mixture.bits.values())) > 1
    table = mixed(measured(), mixture.bits)
    written = mixed_recipe(inputs(), table.plan, mixture.bits)
    (tmp_path / "mixed.yaml").write_text(written.to_yaml())
    bound = BoundRecipe.of(Recipe.load(tmp_path / "mixed.yaml"), Registry())
    again = Inputs.load(bound, Source(networks.network("edsr")), "cpu")
    _, own = Calibrator(again).run()
    assert own.plan.sites == table.plan.sites
    for name, qparams in table.qparams.items():
        assert own.qparams[name].grid.bits == mixture.bits[next(s for s in table.plan.sites if s.name == name).group]
        assert torch.equal(own.qparams[name].scale, qparams.scale)
        assert torch.equal(own.qparams[name].zero_point, qparams.zero_point)
    assert all(torch.equal(own.weights[name], weight) for name, weight in table.weights.items())


def test_tensors_of_a_stage_share_their_bits() -> None:
    mixture = precision("stage").within(Budget("bops", 0.4))
    by_stage: dict[tuple[str, str], set[int]] = {}
    for group, sites in precision().plan.groups.items():
        by_stage.setdefault((sites[0].stage, sites[0].role), set()).add(mixture.bits[group])
    assert all(len(bits) == 1 for bits in by_stage.values())
    assert mixture.expected >= precision().within(Budget("bops", 0.4)).expected


@pytest.mark.parametrize("budget", [Budget("size", 0.1), Budget("bops", 0.01)])
def test_impossible_budget_names_the_least(budget: Budget) -> None:
    with pytest.raises(SrptqError, match=rf"budget {budget}: .* the least is {budget.measure}=0\.\d+") as refusal:
        precision().within(budget)
    least = float(str(refusal.value).rpartition("=")[2])
    assert getattr(precision().within(Budget(budget.measure, least * 1.0001)), budget.measure) <= least * 1.0001


def test_drop_needs_the_truth() -> None:
    with pytest.raises(SrptqError, match=r"budget drop=0\.1: .* give `pairs`"):
        precision().within(Budget("drop", 0.1))


def test_mixture_for_a_drop_saves_bitops() -> None:
    stages = Precision(measured(), "stage", own_pairs())
    plain = stages.plain.psnr_y or 0
    lost = [plain - uniform["psnr_y"] for uniform in stages.record()["uniform"]]
    limit = (lost[-1] + lost[1]) / 2
    mixture = stages.within(Budget("drop", limit))
    assert plain - (mixture.quality.psnr_y or 0) <= limit
    assert mixture.bops < 1


def test_single_width_is_refused() -> None:
    with pytest.raises(SrptqError, match=r"widths 32: paper has 1, 2, .*; give two of these at least"):
        at_every_width(inputs(), 2, (32,))


def test_dynamic_quantizers_are_refused() -> None:
    with pytest.raises(SrptqError, match=r"activations\.quantizer: daq has no bounds"):
        at_every_width(inputs("paper-w4a4-daq"), 2, (2, 4))


@pytest.mark.parametrize(("name", "bits"), list(product(["snpe-w8a16", "openvino-w4a4", "paper-w4a4-best"], [4, 8])))
def test_uniform_recipes_fit_the_target(name: str, bits: int) -> None:
    registry = Registry()
    recipe = Recipe.load(name)
    uniform = uniform_recipe(recipe, BoundRecipe.of(recipe, registry).rules, bits)
    rules = BoundRecipe.of(uniform, registry).rules
    assert uniform.weights.bits == bits
    assert uniform.activations.bits in rules.activation_bits
    assert all(stage.weights is None and stage.activations is None for stage in uniform.stages.values())


@pytest.mark.parametrize("measure", ["size", "bops"])
def test_curve_trades_cost_for_noise(measure: Measure) -> None:
    problem = precision().problem
    curve = precision().curve(measure)
    costs = [getattr(mixture, measure) for mixture in curve]
    whole = problem.cost(measure, precision().eight)
    assert len(curve) == POINTS
    assert costs[0] == problem.cost(measure, problem.least()) / whole
    assert costs[-1] <= problem.cost(measure, problem.most()) / whole
    assert all(former.expected >= latter.expected for former, latter in pairwise(curve))
    assert curve[-1].expected == pytest.approx(sum(min(choice.noise.values()) for choice in problem.choices))
    assert curve[0].point() == {**curve[0].costs(), "noise": curve[0].quality.noise, "psnr": curve[0].quality.psnr}


def test_curve_beats_the_same_bits_everywhere() -> None:
    curve = precision().curve("bops")
    for uniform in precision().record()["uniform"]:
        dearer = [mixture.expected for mixture in curve if mixture.bops >= uniform["bops"]]
        assert max(dearer) <= uniform["expected_noise"] * 1.0001
