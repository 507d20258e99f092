"""PaC: the bounds that it tunes, the parameters that it leaves alone, and that the loss falls."""

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from helpers import networks
from helpers.tunings import IMAGES, Bits, copy_bounds, moved, observed, paper_loss

from srptq_plugin.errors import SrptqError
from srptq_plugin.planning.prepared_graph import PreparedGraph
from srptq_plugin.quantization.grid import Bounds
from srptq_plugin.quantization.quantizer import Mode
from srptq_plugin.reconstruction.pac import PacOptions, reconstruct


@pytest.fixture
def prepared() -> PreparedGraph:
    return observed()


def track(prepared: PreparedGraph, **options: Any) -> tuple[list[Bits], dict[str, float]]:
    """Reconstruct, and return the bounds before each step and after the last, and the figures."""
    seen: list[Bits] = []

    def progress(stage: str, _done: int, _total: int) -> None:
        if stage == "tuning":
            seen.append(copy_bounds(prepared))

    return seen, dict(reconstruct(prepared, IMAGES, progress=progress, **options))


@pytest.mark.parametrize("schedule", ["joint", "alternating"])
@pytest.mark.parametrize("gradient", ["full", "pact"])
@pytest.mark.parametrize("feature_loss", ["sum", "literal"])
def test_the_loss_falls(schedule: str, gradient: str, feature_loss: str) -> None:
    """Start from bounds that clip, as `pact` learns from clipped values only. Safe 8-bit weights would not clip."""
    prepared = networks.calibrated("edsr", 4, "onnxruntime", weights={"bits": 4, "overflow_safe": False})
    for quantizer in prepared.quantizers.values():
        if not quantizer.fixed:
            quantizer.set_bounds(Bounds(0.6 * quantizer.lower, 0.6 * quantizer.upper))
    options: dict[str, Any] = {"schedule": schedule, "gradient": gradient, "feature_loss": feature_loss}
    figures = reconstruct(prepared, IMAGES, epochs=4, weight_rate=1e-2, activation_rate=1e-2, **options)
    assert figures["loss_after"] < 0.97 * figures["loss_before"]


def test_absolute_rates_also_lower_the_loss(prepared: PreparedGraph) -> None:
    rates: dict[str, Any] = {"rates": "absolute", "weight_rate": 1e-3, "activation_rate": 2.5}
    figures = reconstruct(prepared, IMAGES, epochs=4, schedule="joint", **rates)
    assert figures["loss_after"] < 0.99 * figures["loss_before"]


def test_bounds_take_turns_weights_first(prepared: PreparedGraph) -> None:
    seen, figures = track(prepared, epochs=4, batch=2, schedule="alternating")
    weights, activations = (set(prepared.of_role(role)) for role in ("weight", "activation"))
    assert figures["steps"] == 12
    assert len(seen) == 13
    for epoch in range(4):
        for step in range(3 * epoch, 3 * epoch + 3):
            changed = moved(seen[step], seen[step + 1])
            turn = weights if epoch % 2 == 0 else activations
            assert changed, f"step {step}: nothing learned"
            assert changed <= turn


def test_jointly_both_learn_at_every_step(prepared: PreparedGraph) -> None:
    seen, _ = track(prepared, epochs=1, schedule="joint")
    for before, after in pairwise(seen):
        changed = moved(before, after)
        assert all(changed & set(prepared.of_role(role)) for role in ("weight", "activation"))


def test_the_range_of_the_image_never_moves(prepared: PreparedGraph) -> None:
    before = copy_bounds(prepared)
    reconstruct(prepared, IMAGES, schedule="joint", epochs=2, activation_rate=1e-2)
    assert "sub_mean/conv" not in moved(before, copy_bounds(prepared))
    assert len(moved(before, copy_bounds(prepared))) > len(before) / 2


@pytest.mark.parametrize("rates", ["relative", "absolute"])
def test_first_steps_have_the_length_of_rates(prepared: PreparedGraph, rates: str) -> None:
    rate_of = {"weight": 3e-3, "activation": 2e-3}
    rated: dict[str, Any] = {f"{role}_rate": rate for role, rate in rate_of.items()}
    seen, _ = track(prepared, epochs=1, schedule="joint", rates=rates, **rated)
    full = 0  # Adam's first step has the length of its rate wherever there is a gradient
    for role, rate in rate_of.items():
        for name in prepared.of_role(role):  # pyright: ignore[reportArgumentType]
            lower, upper = seen[0][name]
            unit = 1.0 if role == "weight" else 1 / 255  # of a network from 0 to 1
            length = rate * ((upper - lower).mean().item() if rates == "relative" else unit)
            steps = [(after - before).abs() for before, after in zip(seen[0][name], seen[1][name], strict=True)]
            longest = torch.cat([step.flatten() for step in steps]).max().item()
            assert longest <= 1.01 * length, name
            full += longest > 0.99 * length
    assert full > len(prepared.quantizers) / 2


def test_rates_fade_to_nothing(prepared: PreparedGraph) -> None:
    seen, _ = track(prepared, epochs=10, schedule="joint")
    first, last = (
        max((after[name][1] - before[name][1]).abs().max().item() for name in before)
        for before, after in ((seen[0], seen[1]), (seen[-2], seen[-1]))
    )
    assert last < 0.1 * first


def test_float_parameters_stay_and_can_learn_afterwards(prepared: PreparedGraph) -> None:
    frozen = {name: p.detach().clone() for name, p in prepared.module.named_parameters() if "srptq_site" not in name}
    learns = {name: p.requires_grad for name, p in prepared.module.named_parameters() if name in frozen}
    assert any(learns.values())
    reconstruct(prepared, IMAGES, schedule="joint", epochs=2)
    for name, p in prepared.module.named_parameters():
        if name in frozen:
            assert torch.equal(p, frozen[name])
            assert p.grad is None
            assert p.requires_grad == learns[name]


def test_the_seed_decides_the_bounds() -> None:
    results = [networks.calibrated("edsr", 4) for _ in range(3)]
    for prepared, seed in zip(results, (1, 1, 2), strict=True):
        reconstruct(prepared, IMAGES, seed=seed, epochs=3, weight_rate=1e-2, activation_rate=1e-2)
    first, second, different = (copy_bounds(prepared) for prepared in results)
    assert not moved(first, second)
    assert moved(first, different)


def test_the_global_random_state_changes_nothing() -> None:
    results: list[Bits] = []
    for seed in (1, 2):
        prepared = networks.calibrated("edsr", 4)
        torch.manual_seed(seed)
        reconstruct(prepared, IMAGES, epochs=2)
        results.append(copy_bounds(prepared))
    assert not moved(*results)


@pytest.mark.parametrize("rate", [0.3, 1e3])
def test_it_never_ends_worse_than_it_began(prepared: PreparedGraph, rate: float) -> None:
    before, start = sum(paper_loss(prepared, IMAGES)), copy_bounds(prepared)
    options: dict[str, Any] = {"feature_weight": 1.0, "weight_rate": rate, "activation_rate": rate}
    figures = reconstruct(prepared, IMAGES, schedule="joint", epochs=2, **options)
    assert figures["loss_after"] <= figures["loss_before"]
    assert sum(paper_loss(prepared, IMAGES)) <= before * 1.001
    assert not moved(start, copy_bounds(prepared))


def test_the_last_bounds_are_kept_if_asked() -> None:
    prepared = observed()
    start = copy_bounds(prepared)
    figures = reconstruct(prepared, IMAGES, epochs=1, weight_rate=0.3, activation_rate=0.3, keep="last")
    assert figures["loss_after"] > figures["loss_before"]
    assert moved(start, copy_bounds(prepared))


def test_a_diverging_loss_goes_back_to_the_start(prepared: PreparedGraph) -> None:
    start = copy_bounds(prepared)
    figures = reconstruct(prepared, IMAGES, epochs=1, weight_rate=1e18)
    assert not moved(start, copy_bounds(prepared))
    assert math.isfinite(figures["loss_after"])


def test_the_tuned_bounds_quantize_afterwards(prepared: PreparedGraph) -> None:
    reconstruct(prepared, IMAGES, schedule="joint", epochs=2)
    before = prepared(IMAGES)
    assert {quantizer.mode for quantizer in prepared.quantizers.values()} == {Mode.QUANTIZE}
    for quantizer in prepared.quantizers.values():
        quantizer.upper.data *= 3
    assert not torch.equal(prepared(IMAGES), before)


def test_an_interruption_leaves_nothing_frozen(prepared: PreparedGraph) -> None:
    def interrupt(_what: str, done: int, _total: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        reconstruct(prepared, IMAGES, progress=interrupt, epochs=4, schedule="alternating")
    before = prepared(IMAGES)
    for quantizer in prepared.of_role("weight").values():
        quantizer.upper.data *= 3
    assert not torch.equal(prepared(IMAGES), before)
    assert prepared.module.get_parameter("head.weight").requires_grad


def test_progress_counts_the_steps(prepared: PreparedGraph) -> None:
    steps: list[tuple[int, int]] = []

    def note(stage: str, done: int, total: int) -> None:
        if stage == "tuning":
            steps.append((done, total))

    figures = reconstruct(prepared, IMAGES[:5], progress=note, epochs=2, batch=2)
    assert steps == [(step, 6) for step in range(7)]
    assert figures["steps"] == 6


def test_an_unknown_option_lists_the_choices(prepared: PreparedGraph) -> None:
    with pytest.raises(SrptqError, match=r"reconstruction\.epoch: unknown key; did you mean 'epochs'"):
        reconstruct(prepared, IMAGES, epoch=3)


def test_turns_begin_with_weights() -> None:
    alternating, joint = PacOptions(schedule="alternating"), PacOptions(schedule="joint")
    assert [alternating.turn(epoch) for epoch in range(3)] == [("weight",), ("activation",), ("weight",)]
    assert joint.turn(0) == ("weight", "activation")


def test_a_single_quantized_role_learns_every_epoch() -> None:
    assert [PacOptions(schedule="alternating").turn(epoch, ("activation",)) for epoch in range(2)] == [
        ("activation",),
        ("activation",),
    ]
    for off in ("weights", "activations"):
        prepared = networks.calibrated("edsr", 4, "paper", **{off: {"bits": 4, "quantize": False}})
        start = copy_bounds(prepared)
        figures = reconstruct(prepared, IMAGES, epochs=6, weight_rate=5e-3, activation_rate=5e-3)
        assert figures["loss_after"] < figures["loss_before"]
        assert len(moved(start, copy_bounds(prepared))) > 1


def test_frozen_weights_learn_if_free() -> None:
    prepared = networks.calibrated("edsr", 4)
    images = networks.images(4)
    frozen = networks.calibrated("edsr", 4)
    frozen.module.requires_grad_(requires_grad=False)
    figures = [reconstruct(graph, images, epochs=1, weights="free") for graph in (prepared, frozen)]
    assert figures[0] == figures[1]
    assert figures[1]["loss_after"] < figures[1]["loss_before"]
