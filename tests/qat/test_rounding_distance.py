"""FQSR's calibration loss: its value, its units, and learning by it."""

import pytest
import torch
from helpers import networks
from torch import Tensor, nn

from srptq_plugin.planning.prepared_graph import PreparedGraph
from srptq_plugin.plugins.registry import Registry
from srptq_plugin.qat.rounding_distance import collect_distances
from srptq_plugin.qat.training import Training
from srptq_plugin.quantization.grid import dequantize, quantize
from srptq_plugin.recipes.recipe import Recipe
from srptq_plugin.recipes.schema import TrainingSettings

IMAGES = networks.images(8, 12, 12, seed=5)
NAMES = ["bounded", "pams", "fqsr"]


def recipe(name: str) -> Recipe:
    """Make a recipe whose bounds clip: PAMS learns from clipped values only."""
    observed = {"observer": "percentile", "options": {"percentile": 5}}
    kinds = {kind: {"bits": 3, "quantizer": name, **observed} for kind in ("weights", "activations")}
    return Recipe.model_validate({"target": "paper", "preset": "fqsr", **kinds})


def calibrated(name: str, toolkit: str | None = None) -> PreparedGraph:
    plan = networks.plan("edsr", recipe(name))
    made = Registry().toolkit(toolkit).load().realize(networks.exported("edsr"), plan) if toolkit else None
    prepared = made or networks.realize("edsr", plan)
    prepared.observe([IMAGES])
    return prepared


def distances(prepared: PreparedGraph) -> float:
    """Return the sum of the mean distances, computed from each quantizer's input."""
    means: list[float] = []

    def listen(quantizer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        qparams = quantizer.qparams().detach()  # pyright: ignore[reportCallIssue]
        means.append(float((dequantize(quantize(inputs[0], qparams), qparams) - inputs[0]).double().abs().mean()))

    handles = [quantizer.register_forward_pre_hook(listen) for quantizer in prepared.quantizers.values()]
    with torch.no_grad():
        prepared(IMAGES)
    for handle in handles:
        handle.remove()
    assert len(means) == len(prepared.plan.sites)
    return sum(means)


def loss(prepared: PreparedGraph, calibration: float, peak: float = 1.0) -> Tensor:
    training = Training(prepared, TrainingSettings(steps=2, calibration=calibration), peak)
    return training._loss((IMAGES, None))  # pyright: ignore[reportPrivateUsage]


@pytest.mark.parametrize("toolkit", [None, "torchao", "mqbench"])
@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_loss_sums_over_all_quantized_tensors(name: str, toolkit: str | None) -> None:
    if toolkit:
        pytest.importorskip(toolkit)
    prepared = calibrated(name, toolkit)
    added = loss(prepared, 0.3) - loss(prepared, 0.0)
    assert added.item() == pytest.approx(0.3 * 255 * distances(prepared), rel=1e-4)


@torch.no_grad()
def test_loss_is_in_the_networks_units() -> None:
    prepared = calibrated("fqsr")
    plain, whole = ([float(loss(prepared, weight, peak)) for peak in (1.0, 255.0)] for weight in (0.0, 0.3))
    assert whole[0] / plain[0] == pytest.approx(whole[1] / plain[1], rel=1e-5)
    assert whole[1] - plain[1] == pytest.approx(0.3 * distances(prepared), rel=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_intervals_and_weights_learn_by_it(name: str) -> None:
    prepared = calibrated(name)
    training = Training(
        prepared, TrainingSettings(steps=40, calibration=1e4, value_rate=0.05, bound_rate=2e-3), peak=1.0
    )
    before = distances(prepared)
    with training.learning:
        training.learning.take_turns(("weight", "activation"))
        for _ in range(40):
            training.step((IMAGES, None))
    assert distances(prepared) < 0.97 * before


def test_teacher_adds_nothing_and_hooks_are_removed() -> None:
    prepared = calibrated("fqsr")
    with collect_distances(prepared.quantizers.values()) as terms:
        prepared.float_forward(IMAGES)
    assert not any(map(float, terms))
    assert not any(quantizer._forward_hooks for quantizer in prepared.quantizers.values())  # pyright: ignore[reportPrivateUsage]
