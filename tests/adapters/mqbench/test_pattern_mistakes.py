"""Mistakes in calls of `ptq_reconstruction` with the pattern PaC, and the keys and importers that it names."""

import re
import sys
from types import ModuleType
from typing import Any

import pytest
import torch
from helpers import networks
from helpers.mqbench_patterns import BATCHES, QUICK, STOCK, Easy, Prepare, tune
from mqbench import advanced_ptq  # pyright: ignore[reportAttributeAccessIssue]
from mqbench.utils.state import enable_quantization  # pyright: ignore[reportMissingImports]

import srptq_plugin
from srptq_plugin.errors import SrptqError


def never(*_: Any, **__: Any) -> Any:
    raise AssertionError("this should not be reached")


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


@pytest.mark.parametrize("quantizer", ["BoundedFakeQuantize", "FixedFakeQuantize"])
def test_uncalibrated_model_is_refused_by_site(quantizer: str, prepare: Prepare) -> None:
    model = prepare(w_fakequantize=quantizer, a_fakequantize=quantizer)
    enable_quantization(model)
    with pytest.raises(SrptqError, match=r"site [\w./]+: no bounds yet"):
        tune(model, Easy(QUICK))


def test_list_of_parts_is_refused(calibrated: Prepare) -> None:
    with pytest.raises(SrptqError, match="leave graph_module_list out"):
        advanced_ptq.ptq_reconstruction(calibrated(), BATCHES, Easy(QUICK), ["head"])


@pytest.mark.usefixtures("real")
@pytest.mark.parametrize("kind", ["DoReFa", "Tqt"])
def test_other_kinds_are_refused_with_the_choices(kind: str, prepare: Prepare) -> None:
    model = prepare(w_fakequantize=f"{kind}FakeQuantize", w_observer="MinMaxObserver")
    with pytest.raises(
        SrptqError, match=rf"site \S+: the bounds of a {kind}FakeQuantize .*use BoundedFakeQuantize, Fixed"
    ):
        tune(model, Easy(QUICK))


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
