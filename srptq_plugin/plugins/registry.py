"""The registry: all components that plugins registered. It owns its plugin manager, so that tests make fresh ones."""

import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import EntryPoint, entry_points
from itertools import chain
from typing import Any, TypeVar, cast

import pluggy

from srptq_plugin.errors import SrptqError, UnknownNameError
from srptq_plugin.plugins import hookspecs
from srptq_plugin.plugins.entries import (
    Entry,
    ModelEntry,
    ObserverEntry,
    QuantizerEntry,
    ReconstructionEntry,
    TargetEntry,
    ToolkitEntry,
)

logger = logging.getLogger(__name__)

E = TypeVar("E", bound=Entry[Any])
KINDS: Mapping[str, type[Entry[Any]]] = {
    "toolkit": ToolkitEntry,
    "target": TargetEntry,
    "observer": ObserverEntry,
    "reconstruction": ReconstructionEntry,
    "quantizer": QuantizerEntry,
    "model": ModelEntry,
}
HOOKS: Mapping[str, str] = {f"srptq_{kind}s": kind for kind in KINDS}
NAME = re.compile(r"\w[\w.-]*")


@dataclass(frozen=True)
class PluginInfo:
    """One plugin: where it comes from and what it registers, or why it failed to load."""

    name: str
    distribution: str = ""
    version: str = ""
    registers: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    failed: str = ""

    def __str__(self) -> str:
        return f"{self.name!r} ({self.distribution} {self.version})" if self.distribution else f"{self.name!r}"


class Registry:
    """The plugins of the entry-point group `srptq`, and plugins passed as objects.

    >>> Registry(entry_points=False).observer("dbdc")
    Traceback (most recent call last):
    srptq_plugin.errors.UnknownNameError: unknown observer 'dbdc'; choices: none
    """

    def __init__(self, plugins: Iterable[object] = (), *, entry_points: bool = True) -> None:
        self._manager = _manager()
        self._plugins: list[PluginInfo] = []
        self._entries: list[tuple[Entry[Any], PluginInfo]] = []
        if entry_points:
            self._load_entry_points()
        for plugin in plugins:
            self.register(plugin)

    def register(self, plugin: object, name: str = "") -> None:
        """Register a plugin. A faulty one raises and leaves the registry unchanged."""
        if not self._manager.is_registered(plugin):
            unnamed = _name(plugin)
            self._register(plugin, PluginInfo(name or self._unused(unnamed, f"{unnamed}-{len(self._plugins)}")))

    def plugins(self) -> Sequence[PluginInfo]:
        """Return all plugins, also those that failed to load."""
        return tuple(self._plugins)

    def entries(self, kind: str) -> Sequence[Entry[Any]]:
        """Return the entries of a kind: toolkit, target, observer, reconstruction, quantizer or model."""
        if kind not in KINDS:
            raise UnknownNameError("kind of plugin", kind, KINDS)
        return tuple(entry for entry, _ in self._entries if isinstance(entry, KINDS[kind]))

    def toolkit(self, name: str) -> ToolkitEntry:
        """Look up a toolkit by its name or alias."""
        return self._find(ToolkitEntry, name)

    def target(self, name: str) -> TargetEntry:
        """Look up a target by its name or alias."""
        return self._find(TargetEntry, name)

    def observer(self, name: str) -> ObserverEntry:
        """Look up an observer by its name or alias."""
        return self._find(ObserverEntry, name)

    def reconstruction(self, name: str) -> ReconstructionEntry:
        """Look up a reconstruction by its name or alias."""
        return self._find(ReconstructionEntry, name)

    def quantizer(self, name: str) -> QuantizerEntry:
        """Look up a fake-quantizer by its name or alias."""
        return self._find(QuantizerEntry, name)

    def model(self, name: str) -> ModelEntry:
        """Look up a family of networks by its name or alias."""
        return self._find(ModelEntry, name)

    def _find(self, kind: type[E], name: str) -> E:
        known = {label: entry for entry, _ in self._entries if isinstance(entry, kind) for label in entry.names}
        if name not in known:
            raise UnknownNameError(_kind(kind), name, known)
        return known[name]

    def _unused(self, name: str, other: str) -> str:
        return other if self._manager.has_plugin(name) else name

    def _load_entry_points(self) -> None:
        for point in entry_points(group=hookspecs.PROJECT):
            info = _info(point, self._unused(point.name, point.value))
            try:
                plugin = point.load()
            except Exception as error:  # noqa: BLE001 - whatever a broken plugin raises, the others must work
                self._fail(info, point, error)
            else:
                if not self._manager.is_registered(plugin):
                    self._register(plugin, info)

    def _fail(self, info: PluginInfo, point: EntryPoint, error: Exception) -> None:
        reason = f"{point.value}: {type(error).__name__}: {error}"
        logger.warning("plugin %s is left out: %s", info, reason)
        self._plugins.append(replace(info, failed=reason))

    def _register(self, plugin: object, info: PluginInfo) -> None:
        if self._manager.has_plugin(info.name):
            raise SrptqError(f"plugin {info}: another plugin has this name; give each a name of its own")
        entries = _collect(plugin, info)
        self._refuse_duplicates(entries, info)
        self._manager.register(plugin, info.name)
        registers = {kind: tuple(entry.name for entry in entries if _kind(type(entry)) == kind) for kind in KINDS}
        registers = {kind: names for kind, names in registers.items() if names}
        self._plugins.append(replace(info, registers=registers))
        self._entries += [(entry, info) for entry in entries]

    def _refuse_duplicates(self, entries: Sequence[Entry[Any]], info: PluginInfo) -> None:
        owners = {label: owner for entry, owner in self._entries for label in _keys(entry)}
        for kind, label in chain.from_iterable(map(_keys, entries)):
            if owner := owners.get((kind, label)):
                raise SrptqError(
                    f"plugin {info} registers {kind} {label!r}, which plugin {owner} has; "
                    "rename one of them or uninstall one of the plugins"
                )
            owners[kind, label] = info


def _manager() -> pluggy.PluginManager:
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    return manager


def _info(point: EntryPoint, name: str) -> PluginInfo:
    source = point.dist
    return PluginInfo(name, source.name, source.version) if source else PluginInfo(name)


def _name(plugin: object) -> str:
    return getattr(plugin, "__name__", None) or type(plugin).__name__


def _kind(entry: type[Entry[Any]]) -> str:
    return next(kind for kind, known in KINDS.items() if issubclass(entry, known))


def _keys(entry: Entry[Any]) -> Iterator[tuple[str, str]]:
    return ((_kind(type(entry)), label) for label in entry.names)


def _collect(plugin: object, info: PluginInfo) -> list[Entry[Any]]:
    """Call all hooks of a plugin on a trial manager, so that a failure leaves no trace. Return the checked entries."""
    trial = _manager()
    try:
        trial.register(plugin)
    except Exception as error:
        raise SrptqError(f"plugin {info}: {' '.join(str(error).split())}; a hook takes no argument") from error
    callers = trial.get_hookcallers(plugin) or []
    if not callers:
        raise SrptqError(f"plugin {info} has no hooks; mark its functions with @srptq_plugin.hookimpl")
    check_pending(callers, info)
    hooks = ((caller.name, hook) for caller in callers for hook in caller.get_hookimpls())
    return [entry for name, hook in hooks for entry in _call(hook, f"plugin {info}: {name}", KINDS[HOOKS[name]])]


def check_pending(callers: Iterable[pluggy.HookCaller], info: PluginInfo) -> None:
    """Refuse a hook that has no specification, such as a misspelled one."""
    for caller in callers:
        if not caller.has_spec():
            raise SrptqError(f"plugin {info}: {UnknownNameError('hook', caller.name, HOOKS)}")


def _call(hook: pluggy.HookImpl, where: str, kind: type[Entry[Any]]) -> Sequence[Entry[Any]]:
    try:
        entries = list(cast("Iterable[object]", hook.function()))
    except Exception as error:
        raise SrptqError(
            f"{where} raised {type(error).__name__}: {error}; return a list of {kind.__name__} records"
        ) from error
    return [_checked(entry, where, kind) for entry in entries]


def _checked(entry: object, where: str, kind: type[E]) -> E:
    if not isinstance(entry, kind):
        raise SrptqError(f"{where} gave {entry!r:.80}; give {kind.__name__} records")
    _check_names((entry.name, *_tuple(entry.aliases)), where)
    if not callable(entry.load):
        raise SrptqError(f"{where} gave {entry.name!r} a load that cannot be called; give a function")
    return entry


def _tuple(aliases: object) -> tuple[object, ...]:
    return cast("tuple[object, ...]", aliases) if isinstance(aliases, tuple) else (("aliases", aliases),)


def _check_names(names: Iterable[object], where: str) -> None:
    for name in names:
        if not (isinstance(name, str) and NAME.fullmatch(name)):
            right = "letters, digits, '.', '_' and '-', and aliases are a tuple of names"
            raise SrptqError(f"{where} gave the name {name!r:.80}; a name is {right}")
