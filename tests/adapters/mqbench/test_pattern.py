"""PaC as a pattern of `ptq_reconstruction`, on models that MQBench prepared."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers import networks
from helpers.mqbench_patterns import IMAGES, QUICK, STOCK, STRONG, Easy, Prepare, draw, tune
from mqbench.utils.state import disable_all, enable_calibration, enable_quantization  # pyright: ignore[reportMissingImports]
from torch import Tensor

from srptq_adapters.mqbench.quantizer_class import SRFakeQuantize
from srptq_plugin.planning.prepared_graph import FLOAT, PreparedGraph
from srptq_plugin.quantization.quantizer import BoundedFakeQuantize
from srptq_plugin.reconstruction import pac


@dataclass
class Seen:
    """The arguments and the figures of each call of PaC."""

    prepared: list[PreparedGraph] = field(default_factory=list[PreparedGraph])
    options: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    drawn: list[Tensor] = field(default_factory=list[Tensor])
    taught: list[Tensor] = field(default_factory=list[Tensor])
    figures: list[Any] = field(default_factory=list[Any])


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    calls, reconstruct = Seen(), pac.reconstruct

    def watched(prepared: PreparedGraph, images: Tensor, **options: Any) -> Any:
        calls.prepared.append(prepared)
        calls.options.append(options)
        calls.taught.append(prepared.float_forward(images)[0])
        calls.figures.append(reconstruct(prepared, images, **options))
        calls.drawn.append(draw(prepared))
        return calls.figures[-1]

    monkeypatch.setattr(pac, "reconstruct", watched)
    return calls


def namespace(options: dict[str, Any]) -> SimpleNamespace:
    return SimpleNamespace(**options)


def state(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("kind", [Easy, dict, namespace])
def test_config_of_any_kind(kind: Callable[[Any], Any], calibrated: Prepare, seen: Seen) -> None:
    tune(calibrated(), kind({**QUICK, "weight_rate": 0.02, "seed": 5}))
    (options,) = seen.options
    assert (options["epochs"], options["weight_rate"], options["seed"]) == (1, 0.02, 5)


@pytest.mark.parametrize("backend", ["Academic", "SNPE"])
def test_bias_correction_changes_biases_only(backend: str, calibrated: Prepare) -> None:
    model = calibrated("edsr", backend)
    corrected = tune(model, {"pattern": "bias-correction"})
    expected = networks.network("edsr")(IMAGES).detach()
    before, after = (float((draw(candidate) - expected).abs().mean()) for candidate in (model, corrected))
    assert after < before
    old, new = state(model), state(corrected)
    assert {name.rpartition(".")[2] for name in old if not torch.equal(old[name], new[name])} == {"bias"}


def test_same_config_tunes_the_same_bits(calibrated: Prepare) -> None:
    model = calibrated()
    first, second = (draw(tune(model, Easy(QUICK))) for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize("backend", ["Academic", "QDQ", "SNPE"])
@pytest.mark.parametrize("kind", ["edsr", "mixed", "imdn"])
def test_pac_never_raises_the_loss(kind: str, backend: str, calibrated: Prepare, seen: Seen) -> None:
    model = calibrated(kind, backend)
    tuned = tune(model, Easy(QUICK | STRONG))
    (figures,) = seen.figures
    assert figures["loss_after"] <= figures["loss_before"]
    quantizers = [module for module in tuned.modules() if isinstance(module, SRFakeQuantize)]
    assert quantizers
    assert all(quantizer.core.lower.numel() for quantizer in quantizers)
    exact = networks.network(kind)(IMAGES)
    assert (draw(tuned) - exact).abs().mean() <= 1.5 * (draw(model) - exact).abs().mean()


def test_tuned_model_holds_the_tuned_quantizers(calibrated: Prepare, seen: Seen) -> None:
    tuned = tune(calibrated(), Easy(QUICK | STRONG))
    wrappers = [module for module in tuned.modules() if isinstance(module, SRFakeQuantize)]
    assert {id(wrapper.core) for wrapper in wrappers} == {id(core) for core in seen.prepared[0].quantizers.values()}
    for wrapper in wrappers:
        assert torch.equal(wrapper.scale, wrapper.core.qparams().scale.detach().reshape(-1))
    assert torch.equal(draw(tuned), seen.drawn[0])


@pytest.mark.parametrize("backend", ["Academic", "QDQ"])
@pytest.mark.parametrize("quantizer", ["FixedFakeQuantize", "LearnableFakeQuantize"])
def test_stock_quantizers_are_tuned_to_the_same_bits(
    quantizer: str, backend: str, calibrated: Prepare, seen: Seen
) -> None:
    model = calibrated("edsr", backend, w_fakequantize=quantizer, a_fakequantize=quantizer, w_observer="MinMaxObserver")
    before = draw(model)
    tuned = tune(model, Easy(QUICK | STRONG))
    assert seen.figures[0]["loss_after"] < seen.figures[0]["loss_before"]
    assert not any(isinstance(module, (SRFakeQuantize, BoundedFakeQuantize)) for module in tuned.modules())
    assert torch.equal(draw(tuned), seen.drawn[0])
    assert not torch.equal(draw(tuned), before)


@pytest.mark.parametrize("quantizer", ["BoundedFakeQuantize", "FixedFakeQuantize"])
def test_weights_learn_in_the_tuned_model_only(quantizer: str, calibrated: Prepare, seen: Seen) -> None:
    model = calibrated("edsr", w_fakequantize=quantizer, w_observer="MinMaxObserver")
    before = state(model)
    tuned = tune(model, Easy(QUICK | STRONG | {"weights": "free", "value_rate": 0.05}))
    assert seen.figures[0]["loss_after"] < seen.figures[0]["loss_before"]
    learned = dict(tuned.named_parameters())
    changed = {name for name, value in learned.items() if name in before and not torch.equal(value, before[name])}
    assert {"head.weight", "head.bias", "body.0.second.weight"} <= changed
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(draw(tuned), seen.drawn[0])


def test_original_model_stays_unchanged(calibrated: Prepare) -> None:
    model = calibrated()
    before, drawn, meta = state(model), draw(model), dict(model.meta)
    modules = dict(model.named_modules())
    tune(model, Easy(QUICK | STRONG))
    after = state(model)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert torch.equal(draw(model), drawn)
    assert model.meta == meta
    assert dict(model.named_modules()) == modules


def test_tuned_model_quantizes_and_can_be_switched(calibrated: Prepare) -> None:
    model = calibrated()
    tuned = tune(model, Easy(QUICK))
    exact = networks.network("edsr")(IMAGES)
    assert not torch.allclose(draw(tuned), exact, atol=1e-4)
    disable_all(tuned)
    torch.testing.assert_close(draw(tuned), exact)


def test_calibrating_model_is_tuned(calibrated: Prepare) -> None:
    model = calibrated()
    expected = draw(tune(model, Easy(QUICK)))
    enable_calibration(model)
    assert torch.equal(draw(tune(model, Easy(QUICK))), expected)


def test_batches_may_differ_in_length(calibrated: Prepare, seen: Seen) -> None:
    tune(calibrated(), Easy(QUICK), [networks.images(3), networks.images(1, seed=4)])
    assert len(seen.taught[0]) == 4


def test_float_network_stays_the_teacher_after_stock_patterns(calibrated: Prepare, seen: Seen) -> None:
    model = calibrated(w_fakequantize="AdaRoundFakeQuantize", w_observer="MinMaxObserver")
    weight = model.get_parameter("head.weight").detach().clone()
    rounded = tune(model, Easy(STOCK, pattern="layer"))
    assert not torch.equal(rounded.get_parameter("head.weight"), weight)
    enable_quantization(rounded)
    again = tune(rounded, Easy(QUICK))
    torch.testing.assert_close(seen.taught[0], networks.network("edsr")(IMAGES))
    assert torch.equal(again.meta[FLOAT]["head.weight"], weight)


def test_reconstructing_twice_keeps_the_float_teacher(calibrated: Prepare, seen: Seen) -> None:
    once = tune(calibrated(), Easy(QUICK))
    tune(copy.deepcopy(once), Easy(QUICK))
    assert torch.equal(*seen.taught)


@pytest.mark.usefixtures("real")
@pytest.mark.parametrize("kind", ["QDrop", "PACT"])
def test_clipping_kinds_of_mqbench_are_tuned(kind: str, calibrated: Prepare, seen: Seen) -> None:
    tuned = tune(calibrated(a_fakequantize=f"{kind}FakeQuantize"), Easy(QUICK | STRONG))
    assert seen.figures[0]["loss_after"] < seen.figures[0]["loss_before"]
    assert torch.equal(draw(tuned), seen.drawn[0])


@pytest.mark.usefixtures("real")
def test_dsq_observed_in_training_is_tuned(prepare: Prepare, seen: Seen) -> None:
    model = prepare(a_fakequantize="DSQFakeQuantize").train()
    enable_calibration(model)
    draw(model)
    tuned = tune(model.eval(), Easy(QUICK | STRONG))
    assert seen.figures[0]["loss_after"] < seen.figures[0]["loss_before"]
    assert (draw(tuned) - seen.drawn[0]).abs().mean() < 0.02 * seen.drawn[0].std()
