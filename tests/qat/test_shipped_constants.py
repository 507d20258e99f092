"""The constants of the papers in shipped recipes, and the tensors that FQSR rounds in a residual network."""

import pytest
import torch
from helpers import networks
from helpers.gated import IMAGES

from srptq_plugin.quantization.quantizer import BoundedFakeQuantize
from srptq_plugin.recipes.recipe import Recipe

FQSR = [("w4a4", "s8"), ("w4a4", "s32"), ("w6a6", "s6"), ("w6a6", "s8"), ("w8a8", "s8"), ("w8a8", "s32")]


@pytest.mark.parametrize(("widths", "skips"), FQSR)
def test_fqsr_recipes_have_the_papers_settings(widths: str, skips: str) -> None:
    recipe = Recipe.load(f"paper-{widths}-fqsr-{skips}")
    assert (recipe.training.calibration, recipe.training.batch) == (0.3, 16)
    assert (recipe.calibration.patches, recipe.calibration.batch) == (320, 16)
    assert (recipe.weights.per_channel, recipe.weights.bits, recipe.activations.bits) == (False, *[int(widths[1])] * 2)
    assert (recipe.skips.bits, recipe.skips.quantize) == ((8 if skips == "s32" else int(skips[1:])), skips != "s32")


def test_fqsr_rounds_every_input_skip_and_output() -> None:
    """Compare the bits of each tensor, one for its sign unless a ReLU gives it, with the setting 4/4/8."""
    plan = networks.plan("edsr", Recipe.load("paper-w4a4-fqsr-s8"))
    read = {(site.source, edge.consumer): site.grid.bits for site in plan.sites for edge in site.consumers}
    features = {
        ("sub_mean/conv", "head/conv"): 8 + 1,
        ("head/conv", "body.0.first/conv"): 4 + 1,
        ("body.0/relu", "body.0.second/conv"): 4,
        ("body.0/add", "body.1.first/conv"): 4 + 1,
        ("body.1/relu", "body.1.second/conv"): 4,
        ("body.1/add", "body.2/conv"): 4 + 1,
        ("/add", "grow/conv"): 4 + 1,
        ("shuffle/pixel_shuffle", "tail/conv"): 4 + 1,
    }
    skips = [
        ("head/conv", "body.0/add"),
        ("body.0.second/conv", "body.0/add"),
        ("body.0/add", "body.1/add"),
        ("body.1.second/conv", "body.1/add"),
        ("body.2/conv", "/add"),
        ("head/conv", "/add"),
        ("tail/conv", "/output"),
    ]
    weights = {(site.name, site.consumers[0].consumer): 4 + 1 for site in plan.weights}
    assert read == features | dict.fromkeys(skips, 8 + 1) | weights
    assert len(weights) == len(plan.convs)


def test_ddtb_starts_from_one_and_99_percent() -> None:
    prepared = networks.realize("edsr", networks.plan("edsr", Recipe.load("paper-w2a2-ddtb")))
    seen: list[torch.Tensor] = []
    quantizer = prepared.quantizers["body.0/relu"]
    quantizer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].flatten().double()))
    prepared.observe([IMAGES])
    assert isinstance(quantizer, BoundedFakeQuantize)
    lower, upper = (float(torch.quantile(seen[0], share)) for share in (0.01, 0.99))
    assert quantizer.lower.item() == pytest.approx(lower, abs=0.01 * upper)
    assert quantizer.upper.item() == pytest.approx(upper, rel=0.01)
    assert upper < 0.97 * float(seen[0].max())


def test_daqs_weights_have_one_scale_each() -> None:
    for name in ("paper-w4a4-daq", "paper-w4a4-dfq"):
        assert not Recipe.load(name).weights.per_channel
