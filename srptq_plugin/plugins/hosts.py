"""Toolkits that look components up by name, and `activate`, which registers the components of plugins there.

These contracts are not in protocols.py: `Host` refers to the registry, which imports that file.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, cast, runtime_checkable

from srptq_plugin.errors import NotInstalledError, SrptqError
from srptq_plugin.plugins.entries import ToolkitEntry
from srptq_plugin.plugins.protocols import Toolkit
from srptq_plugin.plugins.registry import Registry
from srptq_plugin.quantization.grid import Bounds

if TYPE_CHECKING:
    from torch import nn
    from torch.fx import GraphModule

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Change:
    """A change that activating makes to a toolkit: an entry in one of its tables, or a repair."""

    name: str
    """The entry's name in the toolkit, or the repaired part."""
    summary: str
    """The change, in a few words."""
    skipped: str = ""
    """The reason if the change is not made, otherwise empty."""


@runtime_checkable
class Adopter(Protocol):
    """A toolkit whose own fake-quantizers can start from the bounds of a run."""

    def owns(self, quantizer: "nn.Module") -> bool:
        """Tell whether a module is a fake-quantizer of this toolkit. The other methods get no other modules."""
        ...

    def channel_axis(self, quantizer: "nn.Module") -> int | None:
        """Return the axis along which a fake-quantizer has bounds for each channel, or None if it has one pair."""
        ...

    def adopt(self, quantizer: "nn.Module", bounds: Bounds) -> bool:
        """Set a fake-quantizer's scale and zero point from bounds, and let it quantize without observing.

        Return False, and change nothing, if the fake-quantizer is of a kind without bounds.
        """
        ...

    def observe(self, quantizer: "nn.Module") -> None:
        """Let a fake-quantizer observe its tensor and pass it on unchanged."""
        ...


@runtime_checkable
class Host(Adopter, Protocol):
    """A toolkit that looks components up by name in tables of its own, such as MQBench.

    Its `ToolkitEntry` has `host=True`.
    """

    def activate(self, registry: Registry) -> Sequence[Change]:
        """Add the registered components to the toolkit's tables, and return the changes.

        A second call changes nothing. Entries that the toolkit has under the same names stay.
        """
        ...

    def deactivate(self) -> None:
        """Undo `activate`."""
        ...

    def changes(self, registry: Registry) -> Sequence[Change]:
        """Return the changes that `activate` makes, without making them."""
        ...

    def bounded(self, model: "GraphModule") -> AbstractContextManager[object]:
        """Replace the toolkit's own quantizers by `BoundedFakeQuantize` within `with`.

        On exit, restore them with the bounds that were learned.
        """
        ...


def activate(*toolkits: str, registry: Registry | None = None) -> Mapping[str, Sequence[Change]]:
    """Register the components of all plugins in toolkits that look components up by name.

    Return the changes by toolkit. A second call changes nothing. Toolkits that take components as objects need no
    activation.

        srptq_plugin.activate("mqbench")  # before MQBench is imported

    Args:
        toolkits: names of toolkits. Without any, all that are installed.
        registry: the components. Without one, all components of installed plugins.
    """
    known = registry or Registry()
    return {name: host.activate(known) for name, host in _hosts(toolkits, known)}


def deactivate(*toolkits: str, registry: Registry | None = None) -> None:
    """Undo `activate` for these toolkits, or for all that are installed."""
    for _, host in _hosts(toolkits, registry or Registry()):
        host.deactivate()


def installed_hosts(registry: Registry) -> Iterator[tuple[str, Host]]:
    """Yield name and object of each installed toolkit that looks components up by name."""
    for entry in _entries(registry):
        if entry.host and (host := _installed(entry)):
            yield entry.name, cast("Host", host)


def installed_adopters(registry: Registry) -> Iterator[Adopter]:
    """Yield the installed toolkits whose own fake-quantizers can start from bounds."""
    for entry in _entries(registry):
        toolkit = _installed(entry)
        if isinstance(toolkit, Adopter):
            yield toolkit


def _hosts(names: Sequence[str], registry: Registry) -> Iterator[tuple[str, Host]]:
    if not names:
        yield from installed_hosts(registry)
    for name in names:
        entry = registry.toolkit(name)
        if entry.host:
            yield name, cast("Host", entry.load())


def _entries(registry: Registry) -> Iterator[ToolkitEntry]:
    return (entry for entry in registry.entries("toolkit") if isinstance(entry, ToolkitEntry))


def _installed(entry: ToolkitEntry) -> Toolkit | None:
    """Load a toolkit. Return None if it is not installed. Name a broken one in a warning, and return None too."""
    try:
        return entry.load()
    except NotInstalledError:
        return None
    except SrptqError as error:
        logger.warning("toolkit %s is left out: %s", entry.name, error)
        return None
