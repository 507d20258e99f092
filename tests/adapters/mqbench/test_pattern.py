"""PaC as a pattern of `ptq_reconstruction`, on models that MQBench prepared."""

import copy
import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from helpers import networks
from mqbench import advanced_ptq  # pyright: ignore[reportAttributeAccessIssue]
from mqbench.utils.state import disable_all, enable_calibration, enable_quantization  # pyright: ignore[reportMissingImports]
from torch import Tensor, fx

import srptq_plugin
from srptq_adapters.mqbench.quantizer_class import SRFakeQuantize
from srptq_plugin.errors import SrptqError
from srptq_plugin.planning.prepared_graph import FLOAT, PreparedGraph
from srptq_plugin.quantization.quantizer import BoundedFakeQuantize
from srptq_plugin.reconstruction import pac

Prepare = Callable[..., fx.GraphModule]
IMAGES = networks.images(4, seed=3)
BATCHES = list(IMAGES.split(2))
QUICK = {"pattern": "pac", "epochs": 1}
STRONG = {"epochs": 8, "schedule": "joint", "activation_rate": 1e-2}
STOCK = {
    "scale_lr": 4e-5,
    "warm_up": 0.2,
    "weight": 0.01,
    "max_count": 2,
    "b_range": [20, 2],
    "keep_gpu": True,
    "round_mode": "learned_hard_sigmoid",
    "prob": 1.0,
}


class Easy(dict[str, Any]):
    """A dict with attributes, as MQBench's examples use."""

    __getattr__ = dict.__getitem__


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


def tune(model: fx.GraphModule, config: Any, images: Iterable[Tensor] = BATCHES) -> fx.GraphModule:
    return advanced_ptq.ptq_reconstruction(model, list(images), config)


def draw(model: Callable[[Tensor], Tensor]) -> Tensor:
    with torch.no_grad():
        return model(IMAGES)


def state(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def never(*_: Any, **__: Any) -> Any:
    raise AssertionError("this should not be reached")


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


def test_stock_keys_are_named(calibrated: Prepare, caplog: pytest.LogCaptureFixture) -> None:
    tune(calibrated(), Easy({**STOCK, **QUICK}))
    assert re.search(r"pattern pac does not use b_range, keep_gpu, max_count, .*warm_up, weight", caplog.text)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"pattern": "pac", "epoch": 2}, r"(?s)epoch.*epochs"),
        ({"pattern": "pac", "epochs": 0}, "epochs"),
        ({"pattern": "pacc"}, r"config.*pattern 'pacc'.*pac"),
        ({"epochs": 2}, r"config.*pattern.*block, layer, pac"),
    ],
)
def test_mistakes_in_the_config_are_refused_first(
    config: dict[str, Any], message: str, prepare: Prepare, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = prepare()
    monkeypatch.setattr("srptq_adapters.mqbench.pattern.deepcopy_graphmodule", never)
    monkeypatch.setattr(torch, "cat", never)
    with pytest.raises(SrptqError, match=message):
        tune(model, Easy(config))


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        (
            [networks.images(2), networks.images(2, 14, 12)],
            r"cali_data: 2 batches of Tensor, shapes .*images of one size",
        ),
        ([], r"cali_data: 0 batches of nothing"),
        ([{"input": networks.images(2)}], r"cali_data: 1 batches of dict"),
    ],
)
def test_images_of_different_sizes_are_refused(batches: list[Any], message: str, calibrated: Prepare) -> None:
    with pytest.raises(SrptqError, match=message):
        tune(calibrated(), Easy(QUICK), batches)


def test_batches_may_differ_in_length(calibrated: Prepare, seen: Seen) -> None:
    tune(calibrated(), Easy(QUICK), [networks.images(3), networks.images(1, seed=4)])
    assert len(seen.taught[0]) == 4


@pytest.mark.parametrize("quantizer", ["BoundedFakeQuantize", "FixedFakeQuantize"])
def test_uncalibrated_model_is_refused_by_site(quantizer: str, prepare: Prepare) -> None:
    model = prepare(w_fakequantize=quantizer, a_fakequantize=quantizer)
    enable_quantization(model)
    with pytest.raises(SrptqError, match=r"site [\w./]+: no bounds yet"):
        tune(model, Easy(QUICK))


def test_list_of_parts_is_refused(calibrated: Prepare) -> None:
    with pytest.raises(SrptqError, match="leave graph_module_list out"):
        advanced_ptq.ptq_reconstruction(calibrated(), BATCHES, Easy(QUICK), ["head"])


@pytest.mark.parametrize("pattern", ["layer", "block"])
def test_stock_patterns_reach_the_stock_function(
    pattern: str, calibrated: Prepare, monkeypatch: pytest.MonkeyPatch
) -> None:
    srptq_plugin.deactivate("mqbench")
    stock = Mock()
    monkeypatch.setattr(advanced_ptq, "ptq_reconstruction", stock)
    srptq_plugin.activate("mqbench")
    model, config = calibrated(w_fakequantize="AdaRoundFakeQuantize"), Easy(STOCK, pattern=pattern)
    tune(model, config)
    stock.assert_called_once_with(model, BATCHES, config, None)
    srptq_plugin.deactivate("mqbench")


@pytest.mark.parametrize("pattern", ["layer", "block"])
def test_stock_pattern_without_adaround_is_refused(pattern: str, calibrated: Prepare) -> None:
    with pytest.raises(SrptqError, match=r"weight_fake_quant: BoundedFakeQuantize does not learn rounding.*AdaRound"):
        tune(calibrated(), Easy(STOCK, pattern=pattern))


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


@pytest.mark.usefixtures("real")
@pytest.mark.parametrize("kind", ["DoReFa", "Tqt"])
def test_other_kinds_are_refused_with_the_choices(kind: str, prepare: Prepare) -> None:
    model = prepare(w_fakequantize=f"{kind}FakeQuantize", w_observer="MinMaxObserver")
    with pytest.raises(
        SrptqError, match=rf"site \S+: the bounds of a {kind}FakeQuantize .*use BoundedFakeQuantize, Fixed"
    ):
        tune(model, Easy(QUICK))


@pytest.mark.usefixtures("real")
@pytest.mark.parametrize("pattern", ["layer", "block"])
def test_stock_patterns_run_with_our_observer(pattern: str, calibrated: Prepare) -> None:
    model = calibrated(w_fakequantize="AdaRoundFakeQuantize", a_fakequantize="QDropFakeQuantize")
    exact = networks.network("edsr")(IMAGES)
    tuned = tune(model, Easy(STOCK, pattern=pattern))
    assert 0 < (draw(tuned) - exact).abs().mean() < 0.5 * exact.std()


def test_early_importers_of_the_function_are_named(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    early = ModuleType("early")
    early.ptq_reconstruction = advanced_ptq.ptq_reconstruction  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setitem(sys.modules, "early", early)
    srptq_plugin.activate("mqbench")
    srptq_plugin.deactivate("mqbench")
    assert "early imported ptq_reconstruction before activate(), and will not find pac" in caplog.text
    assert "mqbench.advanced_ptq imported" not in caplog.text
