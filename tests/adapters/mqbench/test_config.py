"""A user's MQBench config: accepted keys, warnings and errors."""

import copy
import logging
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import networks
from mqbench import prepare_by_platform as platform  # pyright: ignore[reportAttributeAccessIssue]
from mqbench.fake_quantize import FixedFakeQuantize  # pyright: ignore[reportMissingImports]
from mqbench.observer import MinMaxObserver  # pyright: ignore[reportMissingImports]
from torch import Tensor, fx

from srptq_adapters.mqbench.observer_class import SRObserver
from srptq_adapters.mqbench.quantizer_class import SRFakeQuantize
from srptq_plugin.errors import SrptqError
from srptq_plugin.observers.dbdc import DBDCObserver
from srptq_plugin.qat.quantizer_options import DdtbOptions
from srptq_plugin.quantization.grid import Bounds

pytestmark = pytest.mark.usefixtures("active")

BOUNDED = "BoundedFakeQuantize"
BYTE = {"bit": 8, "symmetry": False, "per_channel": False, "pot_scale": False}


def qconfig(backend: str = "QDQ", **keys: Any) -> Any:
    return platform.get_qconfig_by_platform(platform.BackendType[backend], keys)


def activation(backend: str = "QDQ", **keys: Any) -> Any:
    return qconfig(backend, **keys).activation()


def defaults() -> Any:
    table: dict[Any, Any] = platform.ParamsTable
    return {
        (backend, key): copy.deepcopy(vars(value))
        for backend, row in table.items()
        for key, value in row.items()
        if key.endswith("qscheme")
    }


def test_observer_by_name_is_a_core_observer() -> None:
    quantizer = activation(a_observer="dbdc", a_fakequantize=BOUNDED)
    assert isinstance(quantizer, SRFakeQuantize)
    assert isinstance(quantizer.activation_post_process, SRObserver)
    assert isinstance(quantizer.activation_post_process.observer, DBDCObserver)


def test_alias_sets_the_activation_observer_only() -> None:
    both = qconfig(observer="dbdc", w_observer="MinMaxObserver")
    assert type(both.activation().activation_post_process).__name__ == "DBDCObserver"
    assert isinstance(both.weight().activation_post_process, MinMaxObserver)


def test_alias_may_equal_the_key() -> None:
    assert activation(observer="dbdc", a_observer="dbdc").activation_post_process.title == "dbdc"


def test_alias_in_conflict_with_the_key_is_refused() -> None:
    with pytest.raises(SrptqError, match=r"observer is 'dbdc' and a_observer 'MinMaxObserver'; .* give one"):
        qconfig(observer="dbdc", a_observer="MinMaxObserver")


def test_config_of_the_caller_stays_unchanged() -> None:
    config = {"observer": "dbdc", "a_observer_extra_args": {"bins": 64}}
    before = copy.deepcopy(config)
    platform.get_qconfig_by_platform(platform.BackendType.QDQ, config)
    assert config == before


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"extra_qconfig": {}},
            r"prepare_custom_config_dict: MQBench ignores the key 'extra_qconfig'; .*extra_qconfig_dict",
        ),
        ({"extra_quantizer_dict": {"exclude": []}}, r"extra_quantizer_dict: .* 'exclude'; .*exclude_module_name"),
        ({"extra_qconfig_dict": {"a_observr": "dbdc"}}, r"extra_qconfig_dict: .* 'a_observr'; .*a_observer"),
    ],
)
def test_unused_key_is_named(config: dict[str, Any], message: str, caplog: pytest.LogCaptureFixture) -> None:
    platform.prepare_by_platform(networks.network("edsr"), platform.BackendType.QDQ, config)
    assert re.search(message, caplog.text)


def test_correct_config_gives_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    config = {"extra_qconfig_dict": {"observer": "dbdc"}, "extra_quantizer_dict": {"exclude_module_name": ["head"]}}
    platform.prepare_by_platform(networks.network("edsr"), platform.BackendType.QDQ, config)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("key", ["a_observer", "w_observer", "observer"])
def test_unknown_observer_is_refused_with_the_choices(key: str) -> None:
    key_of_config = key if "_" in key else "a_observer"
    with pytest.raises(SrptqError, match=rf"extra_qconfig_dict.{key_of_config}: unknown observer 'dbcd'.*dbdc"):
        qconfig(**{key: "dbcd"})


@pytest.mark.parametrize("key", ["a_fakequantize", "w_fakequantize"])
def test_unknown_fake_quantizer_is_refused_with_choices(key: str) -> None:
    with pytest.raises(
        SrptqError, match=rf"extra_qconfig_dict.{key}: unknown fakequantize 'Bounded'.*BoundedFakeQuantize"
    ):
        qconfig(**{key: "Bounded"})


@pytest.mark.parametrize("quantizer", [BOUNDED, "FixedFakeQuantize"])
@pytest.mark.parametrize(
    ("options", "message"),
    [({"bin": 64}, r"bin: unknown key; .*keys: average, bins"), ({"bins": 0}, "bins: 0 is not allowed")],
)
def test_wrong_option_is_refused_before_any_image(quantizer: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(SrptqError, match=rf"extra_qconfig_dict: a_observer_extra_args.*dbdc: .*{message}"):
        qconfig(a_observer="dbdc", a_fakequantize=quantizer, a_observer_extra_args=options)


def test_wrong_gradient_is_refused() -> None:
    with pytest.raises(SrptqError, match=r"a_fakeq_params.*gradient: 'lsq' is unknown; give full or pact"):
        qconfig(a_fakequantize=BOUNDED, a_fakeq_params={"gradient": "lsq"})


def test_quantizer_options_and_observer_options_stay_apart() -> None:
    keys: Any = {"a_fakeq_params": {"gated": 0.5, "bypassed": 0}, "a_observer_extra_args": {"ratio": 0.05}}
    quantizer = activation(a_observer="dbdc", a_fakequantize="srptq.ddtb", **keys)
    assert quantizer.core.options == DdtbOptions(gated=0.5, bypassed=0)
    assert quantizer.activation_post_process.observer.ratios == (0.05,)


@pytest.mark.parametrize(
    ("name", "keys", "message"),
    [
        ("srptq.ddtb", {"a_fakeq_params": {"gatde": 1}}, r"params: unknown option 'gatde'.*bypassed, gated, gr"),
        ("srptq.ddtb", {"a_fakeq_params": {"gated": 2}}, r"gated: 2 is not allowed; give a number from 0 to 1"),
        ("srptq.ddtb", {"a_qscheme": {**BYTE, "per_channel": True}}, "not by the channel; give one range a tensor"),
        (BOUNDED, {"a_fakeq_params": {"gated": 1}}, r"a_fakeq_params: unknown option 'gated'; choices: gradient"),
    ],
)
def test_wrong_quantizer_options_are_refused(name: str, keys: dict[str, Any], message: str) -> None:
    with pytest.raises(SrptqError, match=rf"extra_qconfig_dict.*{message}"):
        qconfig(a_fakequantize=name, **keys)


@pytest.mark.parametrize("name", ["srptq.daq", "srptq.linear", "srptq.ddtb"])
def test_dynamic_quantizers_refuse_weights_and_export(name: str) -> None:
    with pytest.raises(SrptqError, match=rf"w_fakequantize: {name} is for activations here; give BoundedFakeQuantize"):
        qconfig(w_fakequantize=name)
    quantizer = activation(a_fakequantize=name)
    quantizer.core.set_bounds(Bounds.of(-1.0, 1.0))
    quantizer.disable_observer()
    quantizer.enable_fake_quant()
    image = networks.images()
    assert (quantizer(image) - image).abs().max() < 0.5

    def through(values: Tensor) -> Tensor:
        return quantizer(values)

    with pytest.raises(SrptqError, match=r"its levels are computed from each image, so .*; use BoundedFakeQuantize"):
        torch.jit.trace(through, image)  # pyright: ignore[reportPrivateImportUsage]


def test_options_reach_observer_and_quantizer() -> None:
    options = {"ratio": 0.05, "bins": 64}
    quantizer = activation(
        observer="dbdc", a_fakequantize=BOUNDED, a_observer_extra_args=options, a_fakeq_params={"gradient": "pact"}
    )
    assert (quantizer.activation_post_process.observer.ratios, quantizer.activation_post_process.observer.bins) == (
        (0.05,),
        64,
    )
    assert quantizer.core.gradient == "pact"


@pytest.mark.parametrize(("name", "gradient"), [(BOUNDED, "full"), ("srptq.pams", "pact"), ("srptq.fqsr", "full")])
def test_gradient_is_the_default_of_the_kind(name: str, gradient: str) -> None:
    assert activation(a_fakequantize=name).core.gradient == gradient


@pytest.mark.parametrize("bit", [1, 0, 9, 16, 4.0, "8", True])
@pytest.mark.parametrize("side", ["w", "a"])
def test_bits_that_no_file_holds_are_refused(bit: object, side: str) -> None:
    with pytest.raises(
        SrptqError, match=rf"extra_qconfig_dict.{side}_qscheme.bit: QDQ cannot take {bit!r}; give 2 to 8"
    ):
        qconfig("QDQ", **{f"{side}_qscheme": {**BYTE, "bit": bit}})


@pytest.mark.parametrize("bit", range(2, 17))
def test_academic_takes_up_to_16_bits(bit: int) -> None:
    schemes = {f"{side}_qscheme": {**BYTE, "bit": bit} for side in "wa"}
    names = {"w_observer": "dbdc", "a_observer": "dbdc", "w_fakequantize": BOUNDED, "a_fakequantize": BOUNDED}
    quantizer = activation("Academic", **schemes, **names)
    assert (quantizer.core.grid.qmin, quantizer.core.grid.qmax) == (0, 2**bit - 1)


@pytest.mark.parametrize("side", ["w", "a"])
def test_academic_without_scheme_is_refused(side: str) -> None:
    other = {"w": "a", "a": "w"}[side]
    with pytest.raises(SrptqError, match=rf"extra_qconfig_dict.{side}_qscheme: missing; Academic needs bit, symmetry"):
        qconfig("Academic", **{f"{other}_qscheme": BYTE})


def test_weight_bits_that_openvino_changes_are_named(caplog: pytest.LogCaptureFixture) -> None:
    scheme = {"bit": 4, "symmetry": True, "per_channel": True, "pot_scale": False}
    qconfig("OPENVINO", w_qscheme=scheme)
    assert "w_qscheme.bit: MQBench's OPENVINO takes -64..63 for weights, not 4 bits" in caplog.text


def test_table_of_defaults_stays_unchanged() -> None:
    before = defaults()
    quantizer = activation(observer="dbdc", a_fakequantize=BOUNDED, a_observer_extra_args={"bins": 64})
    assert quantizer.activation_post_process.observer.bins == 64
    assert defaults() == before
    with pytest.raises(SrptqError, match="bin: unknown key"):
        qconfig(observer="dbdc", a_observer_extra_args={"bin": 64})
    assert defaults() == before
    assert isinstance(activation(a_observer="MinMaxObserver"), platform.FakeQuantizeDict["LearnableFakeQuantize"])


def test_our_observers_work_in_stock_quantizers() -> None:
    quantizer = activation(a_observer="dbdc", a_fakequantize="FixedFakeQuantize")
    assert isinstance(quantizer, FixedFakeQuantize)
    assert isinstance(quantizer.activation_post_process, SRObserver)


def test_prepared_network_has_the_quantizers_of_the_config(prepare: Callable[..., fx.GraphModule]) -> None:
    model = prepare("edsr", "QDQ")
    quantizers = [module for module in model.modules() if isinstance(module, SRFakeQuantize)]
    assert len(quantizers) > 10
    assert {quantizer.activation_post_process.title for quantizer in quantizers} == {"minmax", "dbdc"}
    assert {quantizer.core.grid.bits for quantizer in quantizers} == {4}
