"""activate(): put the registered components into toolkits that look things up by name; deactivate() takes them out."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import cast

from srptq_plugin.errors import NotInstalledError, SrptqError
from srptq_plugin.plugins.entries import ToolkitEntry
from srptq_plugin.plugins.protocols import Adopter, Change, Host, Toolkit
from srptq_plugin.plugins.registry import Registry

logger = logging.getLogger(__name__)


def activate(*toolkits: str, registry: Registry | None = None) -> Mapping[str, Sequence[Change]]:
    """Register every component in these toolkits, or in all that are installed; again changes nothing.

    Returns what was done, by toolkit. Toolkits that take components as objects need none of it.

        srptq_plugin.activate("mqbench")  # before MQBench is imported
    """
    known = registry or Registry()
    return {name: host.activate(known) for name, host in _hosts(toolkits, known)}


def deactivate(*toolkits: str, registry: Registry | None = None) -> None:
    """Leave these toolkits, or all of them, as they were."""
    for _, host in _hosts(toolkits, registry or Registry()):
        host.deactivate()


def _hosts(names: Sequence[str], registry: Registry) -> Iterator[tuple[str, Host]]:
    if not names:
        yield from installed_hosts(registry)
    for name in names:
        entry = registry.toolkit(name)
        if entry.host:
            yield name, cast("Host", entry.load())


def installed_hosts(registry: Registry) -> Iterator[tuple[str, Host]]:
    """The toolkits that look components up by name, as far as they are installed."""
    for entry in _entries(registry):
        if entry.host and (host := _installed(entry)):
            yield entry.name, cast("Host", host)


def installed_adopters(registry: Registry) -> Iterator[Adopter]:
    """Find the installed toolkits whose own fake-quantizers can start from bounds."""
    for entry in _entries(registry):
        toolkit = _installed(entry)
        if isinstance(toolkit, Adopter):
            yield toolkit


def _entries(registry: Registry) -> Iterator[ToolkitEntry]:
    return (entry for entry in registry.entries("toolkit") if isinstance(entry, ToolkitEntry))


def _installed(entry: ToolkitEntry) -> Toolkit | None:
    """Load a toolkit. Returns nothing if it is not installed; a broken one is named in a warning."""
    try:
        return entry.load()
    except NotInstalledError:
        return None
    except SrptqError as error:
        logger.warning("toolkit %s is left out: %s", entry.name, error)
        return None
