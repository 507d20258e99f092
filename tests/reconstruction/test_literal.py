"""The recipes `paper-...-literal`: the constants of the paper, and what they make of a network from 0 to 255."""

import math
from typing import Any

import pytest
import torch
from helpers import networks
from helpers.tunings import copy_bounds, moved
from torch import Tensor

from srptq_plugin.graph.network import Network
from srptq_plugin.planning.prepared_graph import PreparedGraph
from srptq_plugin.plugins.bound_recipe import BoundRecipe
from srptq_plugin.plugins.registry import Registry
from srptq_plugin.recipes.recipe import Recipe
from srptq_plugin.reconstruction.learning import Learning
from srptq_plugin.reconstruction.pac import reconstruct
from srptq_plugin.reconstruction.pac_options import PacOptions

LETTER = {
    "epochs": 10,
    "batch": 2,
    "schedule": "alternating",
    "rates": "absolute",
    "weight_rate": 0.001,
    "activation_rate": 0.05,
    "weights": "fixed",
    "start": "observed",
    "bias_correction": False,
    "feature_weight": 5.0,
    "blocks": "equal",
    "output_weight": 1.0,
    "output_loss": "l1",
    "region_weight": 0.0,
    "recolor": False,
    "feature_loss": "literal",
    "gradient": "pact",
    "keep": "last",
}


def bound(name: str, *overrides: str) -> BoundRecipe:
    return BoundRecipe.of(Recipe.load(name, overrides), Registry())


def calibrated(peak: float) -> tuple[PreparedGraph, Tensor, dict[str, Any]]:
    """Calibrate a network whose images go from 0 to `peak` by the literal recipe of 4 bits."""
    torch.manual_seed(0)
    recipe = bound("paper-w4a4-literal")
    network = Network(networks.graph("edsr"))
    images = peak * networks.images(6, seed=3)
    prepared = PreparedGraph.from_plan(network.module, recipe.plan(network, (0.0, peak)))
    prepared.observe([images])
    assert recipe.recipe.reconstruction
    return prepared, images, dict(recipe.recipe.reconstruction.options)


@pytest.mark.parametrize("bits", [4, 6, 8])
def test_literal_recipes_have_the_papers_constants(bits: int) -> None:
    recipe = bound(f"paper-w{bits}a{bits}-literal").recipe
    assert recipe.reconstruction
    assert {name: recipe.reconstruction.options[name] for name in LETTER} == LETTER
    assert (recipe.weights.bits, recipe.activations.bits) == (bits, bits)
    assert (recipe.stages["head"].weights, recipe.stages["tail"].activations) == (8, 8)
    assert (recipe.weights.observer, recipe.weights.per_channel) == ("minmax", False)
    assert recipe.activations.options == {
        "ratio": "paper", "bins": 2048, "average": "ema", "momentum": 0.9, "start": "extremes", "overshoot": True
    }  # fmt: skip
    assert (recipe.calibration.patches, recipe.calibration.batch) == (100, 16)
    own = recipe.rotate, recipe.equalize, recipe.calibration.even_areas, recipe.float_above
    assert not any(own)


def test_srresnets_weights_lose_a_share() -> None:
    weights = bound("paper-w4a4-literal-srresnet").recipe.weights
    assert (weights.observer, weights.per_channel, weights.options["ratio"]) == ("dbdc", False, 1e-4)


@pytest.mark.parametrize("peak", [255.0, 1.0])
def test_literal_rates_are_those_of_255_levels(peak: float) -> None:
    prepared, images, options = calibrated(peak)
    seen = [copy_bounds(prepared)]

    def note(stage: str, done: int, _total: int) -> None:
        if stage == "tuning" and done in (1, 3, 4):  # 3 steps an epoch: weights, then activations
            seen.append(copy_bounds(prepared))

    options["epochs"] = 2
    reconstruct(prepared, images, progress=note, **options)
    decayed = 0.05 * peak / 255 * 0.5  # half of the cosine is over before the activations' turn
    for role, before, after, length in (("weight", *seen[:2], 0.001), ("activation", *seen[2:], decayed)):
        groups = set(prepared.of_role(role))  # pyright: ignore[reportArgumentType]
        assert moved(before, after) <= groups
        steps = [
            (new - old).abs().max().item()
            for name in groups
            for old, new in zip(before[name], after[name], strict=True)
        ]
        assert max(steps) == pytest.approx(length, rel=1e-3)


def test_pac_rates_are_a_thousandth_by_default() -> None:
    chosen = PacOptions()
    assert (chosen.weight_rate, chosen.activation_rate, chosen.rates) == (1e-3, 1e-3, "relative")


def test_rates_follow_a_cosine_not_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    shares: list[float] = []
    step = Learning.step

    def note(self: Learning, loss: Tensor, turn: Any, share: float) -> None:
        shares.append(share)
        step(self, loss, turn, share)

    monkeypatch.setattr(Learning, "step", note)
    reconstruct(networks.calibrated("edsr", 4), networks.images(6), epochs=4, batch=2)
    assert shares == pytest.approx([(1 + math.cos(math.pi * n / 12)) / 2 for n in range(12)])
