"""activate() and deactivate(): the entries and repairs that MQBench gets, and how each is undone."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from mqbench.prepare_by_platform import FakeQuantizeDict, ObserverDict  # pyright: ignore[reportMissingImports]

from srptq_adapters.mqbench import config, pattern
from srptq_adapters.mqbench.observer_class import observer_class
from srptq_adapters.mqbench.patching import Undo, entered
from srptq_adapters.mqbench.quantizer_class import quantizer_class
from srptq_adapters.mqbench.repairs import repairs
from srptq_adapters.mqbench.torch_compat import moved
from srptq_plugin.plugins.hosts import Change
from srptq_plugin.plugins.registry import Registry

Step = tuple[Change, Callable[[], Undo]]


class ActivationState:
    """The changes that are in force. MQBench's tables are global, so this is too."""

    def __init__(self) -> None:
        self._undo: list[Undo] = []
        self._done: list[Change] = []

    def begin(self, registry: Registry) -> Sequence[Change]:
        """Do every step that is needed. A second call does nothing."""
        if not self._done:
            for change, do in steps(registry):
                if not change.skipped:
                    self._undo.append(do())
                self._done.append(change)
        return tuple(self._done)

    def end(self) -> None:
        """Undo all steps, the last one first."""
        while self._undo:
            self._undo.pop()()
        self._done.clear()

    def changes(self, registry: Registry) -> Sequence[Change]:
        """Return the changes in force, or those that `begin` would make."""
        return tuple(self._done) or tuple(change for change, _ in steps(registry))


ACTIVATION = ActivationState()


def steps(registry: Registry) -> Iterator[Step]:
    """Yield every entry and repair, with the reason if it is skipped."""
    yield from _entries(registry)
    for name, summary, do in config.checks():
        yield Change(name, summary), do
    names = ", ".join(entry.name for entry in registry.entries("reconstruction"))
    yield Change(f"pattern: {names}", "in ptq_reconstruction"), partial(pattern.wrap, registry)
    torch = "" if moved() else "torch has not moved them here"
    yield Change("old names in torch.onnx", "only while MQBench is imported", torch), lambda: lambda: None
    for repair in repairs():
        yield Change(repair.name, repair.summary, "" if repair.needed else "not broken here"), repair.apply


def _entries(registry: Registry) -> Iterator[Step]:
    for entry in registry.entries("observer"):
        observer = observer_class(entry.name, entry.load())
        names = (entry.name, observer.__name__) if entry.name == "dbdc" else (f"srptq.{entry.name}",)
        for name in names:
            yield _entry(ObserverDict, name, observer, entry.summary)
    for entry in registry.entries("quantizer"):
        quantizer = quantizer_class(entry.load())
        name = quantizer.__name__ if entry.name == "bounded" else f"srptq.{entry.name}"
        yield _entry(FakeQuantizeDict, name, quantizer, entry.summary)


def _entry(table: dict[str, Any], name: str, value: Any, summary: str) -> Step:
    taken = f"taken by {table[name].__module__}" if name in table else ""
    return Change(name, summary, taken), partial(entered, table, name, value)
