"""Entries: the records that plugins return from hooks."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from srptq_plugin.plugins.protocols import ObserverFactory, Reconstruction, Target, Toolkit
from srptq_plugin.utils.options import Options

T = TypeVar("T")


@dataclass(frozen=True)
class Entry(Generic[T]):
    """A component of a plugin: its name, a line for people, and a callable that imports it.

    >>> Entry("dbdc", "density-based dual clipping", load=lambda: print).load()
    <built-in function print>
    """

    name: str
    """The name in recipes and commands: letters, digits, `.`, `_` and `-`."""
    summary: str
    """Its line in `srptq plugins`."""
    load: Callable[[], T]
    """Called whenever the component is used. Import slow or optional packages here."""
    aliases: tuple[str, ...] = ()
    """Other names that recipes may say."""
    options: type[Options] = Options
    """The record of its options: they are validated and documented by it, and passed as keyword arguments."""

    @property
    def names(self) -> tuple[str, ...]:
        """The name and the aliases."""
        return (self.name, *self.aliases)


@dataclass(frozen=True)
class ToolkitEntry(Entry[Toolkit]):
    """A toolkit, by name."""

    host: bool = False
    """Whether it is also a `Host`, a toolkit that looks components up by name."""


class TargetEntry(Entry[Target]):
    """A target, by name."""


class ObserverEntry(Entry[ObserverFactory]):
    """An observer, by name."""


class ReconstructionEntry(Entry[Reconstruction]):
    """A reconstruction, by name."""


class QuantizerEntry(Entry[type[Any]]):
    """A subclass of `BoundedFakeQuantize`, by name."""


class ModelEntry(Entry[Any]):
    """A `ModelFamily` of networks, by name. Its options are passed as `Request.options`."""
