"""What a user writes in MQBench's config: what is taken, named and refused."""

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
from srptq_plugin.quantization.grid import Bounds

pytestmark = pytest.mark.usefixtures("active")

BOUNDED = "BoundedFakeQuantize"
BYTE = {"bit": 8, "symmetry": False, "per_channel": False, "pot_scale": False}


def qconfig(backend: str = "QDQ", **given: Any) -> Any:
    return platform.get_qconfig_by_platform(platform.BackendType[backend], given)


def activation(backend: str = "QDQ", **given: Any) -> Any:
    return qconfig(backend, **given).activation()


def defaults() -> Any:
    table: dict[Any, Any] = platform.ParamsTable
    return {
        (backend, key): copy.deepcopy(vars(value))
        for backend, row in table.items()
        for key, value in row.items()
        if key.endswith("qscheme")
    }


def test_an_observer_by_name_is_one_of_the_cores() -> None:
    made = activation(a_observer="dbdc", a_fakequantize=BOUNDED)
    assert isinstance(made, SRFakeQuantize)
    assert isinstance(made.activation_post_process, SRObserver)
    assert isinstance(made.activation_post_process.observer, DBDCObserver)


def test_the_alias_is_the_activations_observer_only() -> None:
    found = qconfig(observer="dbdc", w_observer="MinMaxObserver")
    assert type(found.activation().activation_post_process).__name__ == "DBDCObserver"
    assert isinstance(found.weight().activation_post_process, MinMaxObserver)


def test_the_alias_may_say_the_same_as_the_key() -> None:
    assert activation(observer="dbdc", a_observer="dbdc").activation_post_process.title == "dbdc"


def test_the_alias_and_the_key_in_conflict_are_refused() -> None:
    with pytest.raises(SrptqError, match=r"observer is 'dbdc' and a_observer 'MinMaxObserver'; .* give one"):
        qconfig(observer="dbdc", a_observer="MinMaxObserver")


def test_a_config_is_left_as_it_was_given() -> None:
    given = {"observer": "dbdc", "a_observer_extra_args": {"bins": 64}}
    before = copy.deepcopy(given)
    platform.get_qconfig_by_platform(platform.BackendType.QDQ, given)
    assert given == before


@pytest.mark.parametrize(
    ("config", "named"),
    [
        (
            {"extra_qconfig": {}},
            r"prepare_custom_config_dict: MQBench ignores the key 'extra_qconfig'; .*extra_qconfig_dict",
        ),
        ({"extra_quantizer_dict": {"exclude": []}}, r"extra_quantizer_dict: .* 'exclude'; .*exclude_module_name"),
        ({"extra_qconfig_dict": {"a_observr": "dbdc"}}, r"extra_qconfig_dict: .* 'a_observr'; .*a_observer"),
    ],
)
def test_a_key_that_nobody_reads_is_named(config: dict[str, Any], named: str, caplog: pytest.LogCaptureFixture) -> None:
    platform.prepare_by_platform(networks.network("edsr"), platform.BackendType.QDQ, config)
    assert re.search(named, caplog.text)


def test_a_config_without_mistakes_is_not_remarked_on(caplog: pytest.LogCaptureFixture) -> None:
    config = {"extra_qconfig_dict": {"observer": "dbdc"}, "extra_quantizer_dict": {"exclude_module_name": ["head"]}}
    platform.prepare_by_platform(networks.network("edsr"), platform.BackendType.QDQ, config)
    assert not [each for each in caplog.records if each.levelno >= logging.WARNING]


@pytest.mark.parametrize("key", ["a_observer", "w_observer", "observer"])
def test_an_unknown_observer_is_refused_with_the_choices(key: str) -> None:
    named = key if "_" in key else "a_observer"
    with pytest.raises(SrptqError, match=rf"extra_qconfig_dict.{named}: unknown observer 'dbcd'.*dbdc"):
        qconfig(**{key: "dbcd"})


@pytest.mark.parametrize("key", ["a_fakequantize", "w_fakequantize"])
def test_an_unknown_fake_quantizer_is_refused_with_the_choices(key: str) -> None:
    with pytest.raises(
        SrptqError, match=rf"extra_qconfig_dict.{key}: unknown fakequantize 'Bounded'.*BoundedFakeQuantize"
    ):
        qconfig(**{key: "Bounded"})


@pytest.mark.parametrize("quantizer", [BOUNDED, "FixedFakeQuantize"])
@pytest.mark.parametrize(
    ("options", "said"),
    [({"bin": 64}, r"'bin'.*options: ratio, bins, average"), ({"bins": 0}, "bins: 0; give 1 or more")],
)
def test_a_wrong_option_is_refused_before_any_image(quantizer: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(SrptqError, match=rf"extra_qconfig_dict: a_observer_extra_args.*dbdc: .*{said}"):
        qconfig(a_observer="dbdc", a_fakequantize=quantizer, a_observer_extra_args=options)


def test_a_wrong_parameter_of_a_fake_quantizer_is_refused() -> None:
    with pytest.raises(SrptqError, match=r"a_fakeq_params.*gradient: 'lsq' is not known; choices: full, pact"):
        qconfig(a_fakequantize=BOUNDED, a_fakeq_params={"gradient": "lsq"})


def test_a_quantizers_own_options_are_parameters_beside_those_of_the_observer() -> None:
    given: Any = {"a_fakeq_params": {"gated": 0.5, "bypassed": 0}, "a_observer_extra_args": {"ratio": 0.05}}
    made = activation(a_observer="dbdc", a_fakequantize="srptq.ddtb", **given)
    assert made.core.options == {"gated": 0.5, "bypassed": 0}
    assert made.activation_post_process.observer.ratios == (0.05,)


@pytest.mark.parametrize(
    ("name", "given", "said"),
    [
        ("srptq.ddtb", {"a_fakeq_params": {"gatde": 1}}, r"params: unknown option 'gatde'.*bypassed, gated, gr"),
        ("srptq.ddtb", {"a_fakeq_params": {"gated": 2}}, r"gated: 2 is no share; give a number from 0 to 1"),
        ("srptq.ddtb", {"a_qscheme": {**BYTE, "per_channel": True}}, "not by the channel; give one range a tensor"),
        (BOUNDED, {"a_fakeq_params": {"gated": 1}}, r"a_fakeq_params: unknown option 'gated'; choices: gradient"),
    ],
)
def test_wrong_options_of_a_quantizer_are_refused(name: str, given: dict[str, Any], said: str) -> None:
    with pytest.raises(SrptqError, match=rf"extra_qconfig_dict.*{said}"):
        qconfig(a_fakequantize=name, **given)


@pytest.mark.parametrize("name", ["srptq.daq", "srptq.linear", "srptq.ddtb"])
def test_what_finds_its_levels_in_each_image_is_for_activations_and_not_deployed(name: str) -> None:
    with pytest.raises(SrptqError, match=rf"w_fakequantize: {name} is for activations here; give BoundedFakeQuantize"):
        qconfig(w_fakequantize=name)
    made = activation(a_fakequantize=name)
    made.core.set_bounds(Bounds.of(-1.0, 1.0))
    made.disable_observer()
    made.enable_fake_quant()
    image = networks.images()
    assert (made(image) - image).abs().max() < 0.5

    def through(values: Tensor) -> Tensor:
        return made(values)

    with pytest.raises(SrptqError, match="its levels are computed from each image; use BoundedFakeQuantize"):
        torch.jit.trace(through, image)  # pyright: ignore[reportPrivateImportUsage]


def test_options_reach_the_observer_and_parameters_the_quantizer() -> None:
    options = {"ratio": 0.05, "bins": 64}
    made = activation(
        observer="dbdc", a_fakequantize=BOUNDED, a_observer_extra_args=options, a_fakeq_params={"gradient": "pact"}
    )
    assert (made.activation_post_process.observer.ratios, made.activation_post_process.observer.bins) == ((0.05,), 64)
    assert made.core.gradient == "pact"


@pytest.mark.parametrize(("name", "gradient"), [(BOUNDED, "full"), ("srptq.pams", "pact"), ("srptq.fqsr", "full")])
def test_the_gradient_is_the_kinds_own_unless_given(name: str, gradient: str) -> None:
    assert activation(a_fakequantize=name).core.gradient == gradient


@pytest.mark.parametrize("bit", [1, 0, 9, 16, 4.0, "8", True])
@pytest.mark.parametrize("side", ["w", "a"])
def test_bits_that_a_file_cannot_hold_are_refused(bit: object, side: str) -> None:
    with pytest.raises(
        SrptqError, match=rf"extra_qconfig_dict.{side}_qscheme.bit: QDQ cannot take {bit!r}; give 2 to 8"
    ):
        qconfig("QDQ", **{f"{side}_qscheme": {**BYTE, "bit": bit}})


@pytest.mark.parametrize("bit", range(2, 17))
def test_academic_takes_more(bit: int) -> None:
    schemes = {f"{side}_qscheme": {**BYTE, "bit": bit} for side in "wa"}
    names = {"w_observer": "dbdc", "a_observer": "dbdc", "w_fakequantize": BOUNDED, "a_fakequantize": BOUNDED}
    made = activation("Academic", **schemes, **names)
    assert (made.core.grid.qmin, made.core.grid.qmax) == (0, 2**bit - 1)


@pytest.mark.parametrize("side", ["w", "a"])
def test_academic_without_a_scheme_is_refused(side: str) -> None:
    other = {"w": "a", "a": "w"}[side]
    with pytest.raises(SrptqError, match=rf"extra_qconfig_dict.{side}_qscheme: missing; Academic needs bit, symmetry"):
        qconfig("Academic", **{f"{other}_qscheme": BYTE})


def test_bits_of_weights_that_openvino_changes_are_named(caplog: pytest.LogCaptureFixture) -> None:
    scheme = {"bit": 4, "symmetry": True, "per_channel": True, "pot_scale": False}
    qconfig("OPENVINO", w_qscheme=scheme)
    assert "w_qscheme.bit: MQBench's OPENVINO takes -64..63 for weights, not 4 bits" in caplog.text


def test_the_table_of_defaults_stays_clean() -> None:
    before = defaults()
    made = activation(observer="dbdc", a_fakequantize=BOUNDED, a_observer_extra_args={"bins": 64})
    assert made.activation_post_process.observer.bins == 64
    assert defaults() == before
    with pytest.raises(SrptqError, match="'bin'"):
        qconfig(observer="dbdc", a_observer_extra_args={"bin": 64})
    assert defaults() == before
    assert isinstance(activation(a_observer="MinMaxObserver"), platform.FakeQuantizeDict["LearnableFakeQuantize"])


def test_our_observers_work_in_stock_quantizers() -> None:
    made = activation(a_observer="dbdc", a_fakequantize="FixedFakeQuantize")
    assert isinstance(made, FixedFakeQuantize)
    assert isinstance(made.activation_post_process, SRObserver)


def test_a_prepared_network_has_the_quantizers_that_were_asked_for(prepare: Callable[..., fx.GraphModule]) -> None:
    model = prepare("edsr", "QDQ")
    made = [each for each in model.modules() if isinstance(each, SRFakeQuantize)]
    assert len(made) > 10
    assert {each.activation_post_process.title for each in made} == {"minmax", "dbdc"}
    assert {each.core.grid.bits for each in made} == {4}
