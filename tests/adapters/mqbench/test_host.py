"""activate() and deactivate(): the entries in MQBench's tables, and that none of them stays."""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest
from mqbench import advanced_ptq, convert_deploy  # pyright: ignore[reportAttributeAccessIssue]
from mqbench import prepare_by_platform as platform  # pyright: ignore[reportAttributeAccessIssue]
from mqbench.custom_quantizer import ModelQuantizer  # pyright: ignore[reportMissingImports]
from mqbench.deploy import deploy_linear  # pyright: ignore[reportMissingImports]
from mqbench.fake_quantize import PACTFakeQuantize  # pyright: ignore[reportMissingImports]
from mqbench.utils.registry import (  # pyright: ignore[reportMissingImports]
    BACKEND_DEPLOY_FUNCTION,
    DEFAULT_MODEL_QUANTIZER,
)

import srptq_adapters.plugin
import srptq_plugin
from srptq_adapters.mqbench.host import ACTIVATION
from srptq_adapters.mqbench.observer_class import SRObserver
from srptq_adapters.mqbench.quantizer_class import SRFakeQuantize
from srptq_plugin.observers.minmax import MinMaxObserver
from srptq_plugin.plugins.entries import ObserverEntry, QuantizerEntry
from srptq_plugin.plugins.hookspecs import hookimpl
from srptq_plugin.plugins.registry import Registry
from srptq_plugin.quantization.quantizer import BoundedFakeQuantize

OWNERS = (
    platform,
    advanced_ptq,
    convert_deploy,
    deploy_linear,
    deploy_linear.LinearQuantizer_process,
    PACTFakeQuantize,
    ModelQuantizer,
)
OBSERVERS = {"dbdc", "DBDCObserver", "srptq.minmax", "srptq.percentile", "srptq.mse", "srptq.entropy"}


class Mine(BoundedFakeQuantize):
    pass


def everything() -> Any:
    """Return all of MQBench that activating could change: names, values, lists and their order."""
    tables = [platform.ObserverDict, platform.FakeQuantizeDict, platform.ParamsTable, DEFAULT_MODEL_QUANTIZER]
    deploys = {backend: list(functions) for backend, functions in BACKEND_DEPLOY_FUNCTION.items()}
    attributes = [{name: value for name, value in vars(owner).items() if name != "__builtins__"} for owner in OWNERS]
    return [list(table.items()) for table in tables], deploys, attributes


def third_party() -> Registry:
    observer = ObserverEntry("mine", "of a plugin", load=lambda: MinMaxObserver)
    quantizer = QuantizerEntry("own", "of a plugin", load=lambda: Mine)
    plugin = SimpleNamespace(
        srptq_observers=hookimpl(lambda: [observer]), srptq_quantizers=hookimpl(lambda: [quantizer])
    )
    return Registry([srptq_adapters.plugin, plugin], entry_points=False)


def skipped(changes: Mapping[str, Any]) -> dict[str, str]:
    return {change.name: change.skipped for change in changes["mqbench"] if change.skipped}


@pytest.fixture(autouse=True)
def inactive(active: object) -> None:
    """Deactivate before every test. `active` deactivates at the end, even after a failure."""
    assert active
    srptq_plugin.deactivate("mqbench")


def test_activating_enters_the_components_under_our_names() -> None:
    stock = set(platform.ObserverDict)
    srptq_plugin.activate("mqbench")
    assert set(platform.ObserverDict) - stock == OBSERVERS
    assert all(issubclass(platform.ObserverDict[name], SRObserver) for name in OBSERVERS)
    assert issubclass(platform.FakeQuantizeDict["BoundedFakeQuantize"], SRFakeQuantize)


def test_activating_again_changes_nothing() -> None:
    first = srptq_plugin.activate("mqbench")
    before = everything()
    assert srptq_plugin.activate("mqbench") == first
    assert srptq_plugin.activate() == first
    assert everything() == before


def test_deactivating_restores_every_table_attribute_and_list() -> None:
    before = everything()
    for _ in range(2):
        srptq_plugin.activate("mqbench")
        assert everything() != before
        srptq_plugin.deactivate("mqbench")
        assert everything() == before


def test_deactivating_what_is_not_active_does_nothing() -> None:
    before = everything()
    srptq_plugin.deactivate()
    srptq_plugin.deactivate("mqbench")
    assert everything() == before


@pytest.mark.parametrize("name", ["dbdc", "srptq.mse"])
def test_foreign_observer_under_our_name_stays(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(platform.ObserverDict, name, platform.ObserverDict["MinMaxObserver"])
    reasons = skipped(srptq_plugin.activate("mqbench"))
    assert reasons[name] == "taken by mqbench.observer"
    assert platform.ObserverDict[name] is platform.ObserverDict["MinMaxObserver"]
    assert "DBDCObserver" in platform.ObserverDict
    srptq_plugin.deactivate("mqbench")
    assert platform.ObserverDict[name] is platform.ObserverDict["MinMaxObserver"]


def test_foreign_quantizer_under_our_name_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(platform.FakeQuantizeDict, "BoundedFakeQuantize", PACTFakeQuantize)
    assert "BoundedFakeQuantize" in skipped(srptq_plugin.activate("mqbench"))
    srptq_plugin.deactivate("mqbench")
    assert platform.FakeQuantizeDict["BoundedFakeQuantize"] is PACTFakeQuantize


def test_entries_of_others_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    srptq_plugin.activate("mqbench")
    monkeypatch.setitem(platform.ObserverDict, "theirs", object)
    srptq_plugin.deactivate("mqbench")
    assert platform.ObserverDict["theirs"] is object


def test_changes_are_equal_before_and_after() -> None:
    before, registry = everything(), Registry()
    planned = ACTIVATION.changes(registry)
    assert everything() == before
    done = srptq_plugin.activate("mqbench")["mqbench"]
    assert tuple(done) == tuple(planned) == tuple(ACTIVATION.changes(registry))
    srptq_plugin.deactivate("mqbench")
    assert ACTIVATION.changes(registry) == planned


def test_changes_have_unique_names_and_summaries() -> None:
    changes = ACTIVATION.changes(Registry())
    assert len({change.name for change in changes}) == len(changes)
    assert all(change.summary for change in changes)
    assert {"pattern: pac, bias-correction", "zero points", "get_qconfig_by_platform", *OBSERVERS} <= {
        change.name for change in changes
    }


def test_unneeded_repair_is_skipped_with_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    srptq_plugin.activate("mqbench")
    repaired = deploy_linear.LinearQuantizer_process.parse_qparams
    srptq_plugin.deactivate("mqbench")
    monkeypatch.setattr(deploy_linear.LinearQuantizer_process, "parse_qparams", repaired)
    assert skipped(srptq_plugin.activate("mqbench"))["zero points"] == "not broken here"
    assert deploy_linear.LinearQuantizer_process.parse_qparams is repaired


def test_components_of_plugins_have_our_prefix() -> None:
    registry = third_party()
    srptq_plugin.activate("mqbench", registry=registry)
    observer = platform.ObserverDict["srptq.mine"]
    assert issubclass(observer, SRObserver)
    assert isinstance(observer().observer, MinMaxObserver)
    assert platform.FakeQuantizeDict["srptq.own"].kind is Mine
    srptq_plugin.deactivate("mqbench", registry=registry)
    assert not {"srptq.mine", "srptq.own"} & {*platform.ObserverDict, *platform.FakeQuantizeDict}
