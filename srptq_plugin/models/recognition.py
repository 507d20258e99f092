"""Recognition of the family that a checkpoint belongs to, by its keys and shapes."""

import logging
from collections.abc import Iterable, Iterator
from pathlib import Path

from srptq_plugin.errors import ArgumentError, first_line, short
from srptq_plugin.models.model_record import ModelFamily, State
from srptq_plugin.plugins.entries import Entry

FamilyEntry = Entry[ModelFamily]
logger = logging.getLogger(__name__)
SHOWN = 3
"""How many keys of an unknown checkpoint an error lists."""


def recognize(path: str | Path, state: State, entries: Iterable[FamilyEntry]) -> FamilyEntry:
    """Return the only family that recognizes a checkpoint. Raise ArgumentError if none or several do.

    Args:
        path: The file, for errors.
        state: Its weights.
        entries: The families, in the order in which they are asked.
    """
    families = list(entries)
    matches = list(_matches(path, state, families))
    if len(matches) == 1:
        return matches[0]
    names = ", ".join(entry.name for entry in matches or families)
    if matches:
        message = f"several families recognize it ({names}); choose one: `model={matches[0].name}` and `weights={path}`"
    else:
        keys = ", ".join(short(key) for key in list(state)[:SHOWN])
        message = (
            f"no family recognizes it, of {names}; its keys begin with {keys}; "
            f"give `model=FAMILY` or `model=package.module:factory`, and `weights={path}`"
        )
    raise ArgumentError("model", message, path)


def _matches(path: str | Path, state: State, entries: Iterable[FamilyEntry]) -> Iterator[FamilyEntry]:
    for entry in entries:
        try:
            recognized = entry.load().recognizes(state)
        except Exception as error:  # noqa: BLE001 - whatever a broken plugin raises, the others must work
            logger.warning("model %s cannot tell whether %s is its own (%s)", entry.name, path, first_line(error))
        else:
            if recognized:
                yield entry
