"""The learning rates of training: their units, their schedules, and the steps of epochs."""

import math
from typing import Any

import pytest
import torch
from helpers import networks
from helpers.trainings import IMAGES, batch, begun
from torch import Tensor

import srptq_plugin
from srptq_plugin.errors import SrptqError
from srptq_plugin.plugins.registry import Registry
from srptq_plugin.qat.training import Training, rate_share, resolve_epochs, train
from srptq_plugin.recipes.recipe import Recipe
from srptq_plugin.recipes.schema import TrainingSettings


def share(done: int, **options: Any) -> float:
    return rate_share(TrainingSettings(steps=100, **options), done)


@pytest.mark.parametrize("done", [2, 10, 25, 50, 75, 90])
def test_rates_follow_a_cosine_by_default(done: int) -> None:
    assert share(done) == pytest.approx((1 + math.cos(math.pi * done / 100)) / 2)


@pytest.mark.parametrize(("done", "halvings"), [(0, 0), (29, 0), (30, 1), (59, 1), (60, 2), (99, 3)])
def test_rates_are_halved_every_so_often(done: int, halvings: int) -> None:
    assert share(done, schedule="halving", halve_every=30, warm_up=0) == 0.5**halvings


def test_constant_rates_rise_and_stay() -> None:
    shares = [share(done, schedule="constant", warm_up=0.03) for done in range(100)]
    assert shares[:3] == [0.25, 0.5, 0.75]
    assert set(shares[3:]) == {1.0}


@pytest.mark.parametrize("steps", [1, 49, 50, 1150, 3000])
def test_two_percent_of_the_steps_warm_up(steps: int) -> None:
    assert rate_share(TrainingSettings(steps=steps), 0) == 1 / (1 + steps // 50)


def first_steps(training: Training) -> list[tuple[str, float]]:
    """Return the role of each parameter that learns, and how far the first step moves it at most."""
    before = [parameter.detach().clone() for parameter in training.learned]
    with training.learning:
        training.learning.take_turns(("weight", "activation"))
        training.step(batch(0))
    roles: dict[int, str] = {}
    for role in ("weight", "activation"):
        for quantizer in training.prepared.of_role(role).values():
            roles |= {id(quantizer.lower): role, id(quantizer.upper): role}
    moves = (float((new.detach() - old).abs().max()) for new, old in zip(training.learned, before, strict=True))
    return [(roles.get(id(p), "value"), move) for p, move in zip(training.learned, moves, strict=True)]


def test_absolute_rates_are_the_lengths_of_steps() -> None:
    """Check weights, biases and bounds of weights in their own units, and activations in levels of 0 to 1."""
    rates: dict[str, Any] = {"rates": "absolute", "bound_rate": 1e-3, "value_rate": 5e-4, "warm_up": 0}
    training = begun(networks.calibrated("edsr", 4, "onnxruntime"), **rates)
    lengths = {"weight": 1e-3, "activation": 1e-3 / 255, "value": 5e-4}
    longest: dict[str, float] = {}
    for role, move in first_steps(training):
        longest[role] = max(move, longest.get(role, 0.0))
    assert longest == pytest.approx(lengths, rel=1e-2)


def test_relative_rates_follow_the_scale_of_weights() -> None:
    training = begun(networks.calibrated("edsr", 4, "onnxruntime"), value_rate=0.05, warm_up=0)
    site = training.prepared.plan.weights[0]
    weight = training.prepared.parameter(site)
    step = 0.05 * float(training.prepared.quantizers[site.group].qparams().detach().scale.mean())
    number = next(n for n, parameter in enumerate(training.learned) if parameter is weight)
    assert first_steps(training)[number][1] == pytest.approx(step, rel=1e-2)


@pytest.mark.parametrize(("images", "steps"), [(16, 6), (17, 9), (3, 3)])
def test_epochs_are_passes_over_the_images(images: int, steps: int) -> None:
    chosen = resolve_epochs(TrainingSettings(epochs=3, batch=8), images)
    assert chosen.steps == steps


def test_epochs_decide_when_a_training_ends() -> None:
    pytest.importorskip("torchao")
    plan = networks.plan(
        "edsr", Recipe.model_validate({"target": "onnxruntime", "activations": {"observer": "minmax"}})
    )
    prepared = Registry().toolkit("torchao").load().realize(networks.exported("edsr"), plan)
    prepared.observe([IMAGES])
    low: Tensor = torch.cat([IMAGES, IMAGES])
    log = srptq_plugin.train(prepared.module, low, epochs=2, batch=8, every=100)
    assert [record.step for record in log] == [0, 6]


def test_a_trained_network_keeps_its_schedule_when_resumed() -> None:
    training = begun(networks.calibrated("edsr", 4, "onnxruntime"), schedule="halving", halve_every=2)
    with pytest.raises(SrptqError, match="of another training"):
        begun(networks.calibrated("edsr", 4, "onnxruntime"), schedule="constant").resume(training.state())
    assert [record.step for record in train(training, batch, lambda _: 0.0)] == [0, 2, 4]
