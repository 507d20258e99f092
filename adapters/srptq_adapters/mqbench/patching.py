"""Changes to somebody else's module, each with its undo.

An undo leaves alone whatever others have changed since. Several changes are undone from the last to the first.
"""

from collections.abc import Callable, MutableMapping, MutableSequence
from typing import Any

Undo = Callable[[], None]


def swapped(owner: Any, name: str, new: Any) -> Undo:
    """Replace an attribute, and return the undo."""
    old = getattr(owner, name)
    setattr(owner, name, new)

    def undo() -> None:
        if getattr(owner, name) is new:
            setattr(owner, name, old)

    return undo


def entered(table: MutableMapping[Any, Any], key: Any, value: Any) -> Undo:
    """Add an entry to a table that has none of that name, and return the undo."""
    table[key] = value

    def undo() -> None:
        if table.get(key) is value:
            del table[key]

    return undo


def inserted(items: MutableSequence[Any], new: Any, *, before: Any = None, behind: Any = None) -> Undo:
    """Add an item to a list, before or behind another or at the end, and return the undo."""
    if before is not None:
        index = items.index(before)
    elif behind is not None:
        index = items.index(behind) + 1
    else:
        index = len(items)
    items.insert(index, new)

    def undo() -> None:
        if new in items:
            items.remove(new)

    return undo
