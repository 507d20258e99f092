"""The registry: entries of plugins, refusals of bad plugins, and entry points."""

import inspect
import logging
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import srptq_adapters.plugin
from srptq_plugin.errors import SrptqError, UnknownNameError
from srptq_plugin.graph.rules import Rules
from srptq_plugin.models.model_record import ModelFamily
from srptq_plugin.plugins.entries import Entry, ObserverEntry, TargetEntry
from srptq_plugin.plugins.hookspecs import PROJECT, hookimpl
from srptq_plugin.plugins.registry import HOOKS, KINDS, PluginInfo, Registry
from srptq_plugin.quantization.grid import IntGrid
from srptq_plugin.quantization.quantizer import BoundedFakeQuantize

EntryPoints = Callable[..., None]


def plugin(*entries: object, hook: str = "srptq_observers") -> SimpleNamespace:
    return SimpleNamespace(**{hook: hookimpl(lambda: entries)})


def nothing() -> Any:
    return dict


def observer(name: str, *aliases: str) -> ObserverEntry:
    return ObserverEntry(name, "for a test", load=nothing, aliases=aliases)


def wants_an_argument(registry: object) -> list[object]:
    return [registry]


def fails() -> Iterable[ObserverEntry]:
    raise OSError("the disk is gone")


@pytest.fixture
def builtin() -> Registry:
    return Registry([srptq_adapters.plugin], entry_points=False)


@pytest.fixture
def announce(monkeypatch: pytest.MonkeyPatch) -> EntryPoints:
    def announce(**plugins: object) -> None:
        points = [_Point(name, plugin) for name, plugin in plugins.items()]
        monkeypatch.setattr("srptq_plugin.plugins.registry.entry_points", lambda group="": points * (group == "srptq"))

    return announce


class _Point:
    """An entry point that loads a plugin, or raises the error that it was given."""

    def __init__(self, name: str, plugin: object) -> None:
        self.name, self.value, self._plugin = name, f"{name}.plugin", plugin
        self.dist = SimpleNamespace(name=f"{name}-dist", version="1.2")

    def load(self) -> object:
        if isinstance(self._plugin, Exception):
            raise self._plugin
        return self._plugin


@pytest.mark.parametrize(("hook", "kind"), HOOKS.items())
def test_built_ins_are_looked_up_by_name(builtin: Registry, hook: str, kind: str) -> None:
    registered = {entry.name: entry for entry in getattr(srptq_adapters.plugin, hook)()}
    assert {entry.name for entry in builtin.entries(kind)} == registered.keys()
    for name, entry in registered.items():
        assert isinstance(getattr(builtin, kind)(name), KINDS[kind])
        assert {getattr(builtin, kind)(alias).name for alias in entry.names} == {name}


LOADED: Mapping[str, Callable[[Any], bool]] = {
    "toolkit": lambda toolkit: bool(re.match(r"\d+\.", toolkit.version)),
    "target": lambda target: all(isinstance(rules, Rules) for rules in target.presets.values()),
    "observer": lambda observer: callable(observer(IntGrid(8)).update),
    "reconstruction": lambda reconstruct: bool(inspect.signature(reconstruct).bind(None, None, progress=None, seed=0)),
    "quantizer": lambda quantizer: issubclass(quantizer, BoundedFakeQuantize),
    "model": lambda family: isinstance(family, ModelFamily),
}
"""A check of the loaded object for each kind of entry."""


@pytest.mark.parametrize("kind", KINDS)
def test_every_built_in_loads(builtin: Registry, kind: str) -> None:
    if kind == "toolkit":
        pytest.importorskip("torchao")
    for entry in builtin.entries(kind):
        assert LOADED[kind](entry.load()), entry.name


def test_an_alias_finds_the_same_entry(builtin: Registry) -> None:
    assert builtin.target("ov") is builtin.target("openvino")
    assert builtin.target("ort").name == "onnxruntime"


def test_an_unknown_name_lists_the_choices(builtin: Registry) -> None:
    with pytest.raises(UnknownNameError, match=r"unknown target 'openvno'; did you mean 'openvino'\?"):
        builtin.target("openvno")
    with pytest.raises(UnknownNameError, match="choices: model, observer"):
        builtin.entries("observers")


def test_two_registries_share_nothing(builtin: Registry) -> None:
    builtin.register(plugin(observer("mine")))
    assert builtin.observer("mine")
    with pytest.raises(UnknownNameError):
        Registry([srptq_adapters.plugin], entry_points=False).observer("mine")


def test_the_same_plugin_twice_is_once(builtin: Registry) -> None:
    builtin.register(srptq_adapters.plugin)
    assert len(builtin.plugins()) == 1


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (plugin(hook="srptq_observer"), "unknown hook 'srptq_observer'; did you mean 'srptq_observers'"),
        (plugin(observer("dbdc")), "observer 'dbdc', which plugin 'srptq_adapters.plugin' has"),
        (plugin(observer("new", "mse")), "observer 'mse', which plugin 'srptq_adapters.plugin' has"),
        (plugin(observer("one"), observer("one")), "observer 'one', which plugin 'bad' has"),
        (plugin("dbdc"), "srptq_observers gave 'dbdc'; give ObserverEntry records"),
        (plugin(TargetEntry("t", "", load=nothing)), "give ObserverEntry records"),
        (plugin(observer("two words")), "gave the name 'two words'; a name is letters"),
        (plugin(ObserverEntry("x", "", load=nothing, aliases="ab")), "aliases are a tuple of names"),  # pyright: ignore[reportArgumentType]
        (plugin(ObserverEntry("x", "", load=3)), "'x' a load that cannot be called"),  # pyright: ignore[reportArgumentType]
        (
            SimpleNamespace(srptq_observers=hookimpl(fails)),
            "srptq_observers raised OSError: the disk is gone",
        ),
        (SimpleNamespace(srptq_observers=hookimpl(lambda: None)), "return a list of ObserverEntry records"),
        (SimpleNamespace(srptq_observers=hookimpl(wants_an_argument)), "a hook takes no argument"),
        (
            SimpleNamespace(srptq_observers=list),
            "has no hooks; mark its functions with @srptq_plugin.hookimpl",
        ),
    ],
)
def test_a_bad_plugin_is_named_and_leaves_nothing(builtin: Registry, bad: object, message: str) -> None:
    before = builtin.plugins(), {kind: builtin.entries(kind) for kind in KINDS}
    with pytest.raises(SrptqError) as raised:
        builtin.register(bad, "bad")
    assert message in str(raised.value)
    assert "plugin 'bad'" in str(raised.value)
    assert before == (builtin.plugins(), {kind: builtin.entries(kind) for kind in KINDS})
    builtin.register(plugin(observer("good")), "bad")
    assert builtin.observer("good")


def test_a_second_plugin_of_one_name_is_refused(builtin: Registry) -> None:
    with pytest.raises(SrptqError, match="another plugin has this name"):
        builtin.register(plugin(observer("mine")), "srptq_adapters.plugin")


def test_plugins_without_a_name_get_one_each() -> None:
    registry = Registry([plugin(observer("a")), plugin(observer("b"))], entry_points=False)
    assert [info.name for info in registry.plugins()] == ["SimpleNamespace", "SimpleNamespace-1"]


def test_distributions_may_name_their_entry_points_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    points = [_Point("mine", plugin(observer("a"))), _Point("mine", plugin(observer("b")))]
    monkeypatch.setattr("srptq_plugin.plugins.registry.entry_points", lambda group="": points * (group == "srptq"))
    assert [info.name for info in Registry().plugins()] == ["mine", "mine.plugin"]


def test_the_same_name_may_be_of_two_kinds() -> None:
    target = plugin(TargetEntry("x", "", load=nothing), hook="srptq_targets")
    registry = Registry(entry_points=False)
    registry.register(plugin(observer("x")), "a")
    registry.register(target, "b")
    assert isinstance(registry.target("x"), TargetEntry)


def test_a_generator_is_as_good_as_a_list() -> None:
    def hook() -> Iterable[Entry[Any]]:
        yield observer("lazy")

    assert Registry([SimpleNamespace(srptq_observers=hookimpl(hook))], entry_points=False).observer("lazy")


def test_entry_points_are_listed_with_their_distribution(announce: EntryPoints) -> None:
    announce(mine=plugin(observer("a", "b")))
    registry = Registry()
    assert registry.plugins() == (PluginInfo("mine", "mine-dist", "1.2", {"observer": ("a",)}),)
    assert Registry(entry_points=False).plugins() == ()


def test_a_broken_entry_point_leaves_the_others_working(
    announce: EntryPoints, caplog: pytest.LogCaptureFixture
) -> None:
    announce(broken=ImportError("no module named 'gone'"), builtin=srptq_adapters.plugin)
    with caplog.at_level(logging.WARNING):
        registry = Registry()
    assert registry.observer("dbdc")
    failed = registry.plugins()[0]
    assert (failed.name, failed.registers) == ("broken", {})
    assert failed.failed == "broken.plugin: ImportError: no module named 'gone'"
    assert "plugin 'broken' (broken-dist 1.2) is left out" in caplog.text


def test_two_distributions_with_one_name_are_both_named(announce: EntryPoints) -> None:
    announce(first=plugin(observer("same")), second=plugin(observer("same")))
    with pytest.raises(SrptqError) as raised:
        Registry()
    assert "'first' (first-dist 1.2)" in str(raised.value)
    assert "'second' (second-dist 1.2)" in str(raised.value)


def test_built_ins_come_by_an_entry_point() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert project["entry-points"][PROJECT] == {"builtin": srptq_adapters.plugin.__name__}


def test_a_missing_toolkit_says_how_to_install_it() -> None:
    load = srptq_adapters.plugin.lazy("no_such_toolkit:Thing", "thing")
    with pytest.raises(SrptqError, match=r"no_such_toolkit is not installed; pip install 'srptq-plugin\[thing\]'"):
        load()
