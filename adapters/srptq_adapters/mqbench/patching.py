"""Changes to somebody else's module that can be taken back, the newest first; what others changed since stays."""

from collections.abc import Callable, MutableMapping, MutableSequence
from typing import Any

Undo = Callable[[], None]


def swapped(owner: Any, name: str, new: Any) -> Undo:
    """Replace an attribute."""
    old = getattr(owner, name)
    setattr(owner, name, new)

    def undo() -> None:
        if getattr(owner, name) is new:
            setattr(owner, name, old)

    return undo


def entered(table: MutableMapping[Any, Any], key: Any, value: Any) -> Undo:
    """Add an entry to a table that has none of that name."""
    table[key] = value

    def undo() -> None:
        if table.get(key) is value:
            del table[key]

    return undo


def inserted(items: MutableSequence[Any], new: Any, *, before: Any = None, behind: Any = None) -> Undo:
    """Add an item to a list, beside another or at the end."""
    place = len(items)
    if before is not None or behind is not None:
        place = items.index(behind) + 1 if before is None else items.index(before)
    items.insert(place, new)

    def undo() -> None:
        if new in items:
            items.remove(new)

    return undo
