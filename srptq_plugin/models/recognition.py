"""Recognition of the family that a checkpoint belongs to, by its keys and shapes."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from itertools import product
from pathlib import Path

from srptq_plugin.errors import ArgumentError, first_line, short
from srptq_plugin.models.model_record import ModelFamily, State
from srptq_plugin.plugins.entries import Entry

FamilyEntry = Entry[ModelFamily]
logger = logging.getLogger(__name__)
SHOWN = 3
"""How many keys an error lists at each end of an unknown checkpoint, and of the keys that it lacks."""
ALIKE = 0.5
"""The share of a family's keys from which on a checkpoint resembles it."""


def recognize(path: str | Path, state: State, entries: Iterable[FamilyEntry]) -> tuple[FamilyEntry, State]:
    """Return the only family that recognizes a checkpoint, and the weights by the keys that it recognizes.

    A prefix that all keys share is removed if that helps.

    Args:
        path: The file, for errors.
        state: Its weights.
        entries: The families, in the order in which they are asked.

    Raises:
        ArgumentError: no family recognizes it, or several do.
    """
    families = list(entries)
    stripped = _without_prefix(state)
    for candidate, fallback in product([state] if stripped is state else [state, stripped], (False, True)):
        matches = list(_matches(path, candidate, families, fallback=fallback))
        if len(matches) == 1:
            return matches[0], candidate
        if matches:
            names = ", ".join(entry.name for entry in matches)
            choice = f"choose one: `model={matches[0].name}` and `weights={path}`"
            raise ArgumentError("model", f"several families recognize it ({names}); {choice}", path)
    names = ", ".join(entry.name for entry in families)
    raise ArgumentError(
        "model",
        f"no family recognizes it, of {names}; {_describe(state)}{_resemblance(stripped, families)}; "
        f"give `model=FAMILY` or `model=package.module:factory`, and `weights={path}`",
        path,
    )


def _matches(
    path: str | Path, state: State, entries: Iterable[FamilyEntry], *, fallback: bool
) -> Iterator[FamilyEntry]:
    for entry in entries:
        try:
            family = entry.load()
            recognized = family.fallback == fallback and family.recognizes(state)
        except Exception as error:  # noqa: BLE001 - whatever a broken plugin raises, the others must work
            logger.warning("model %s cannot tell whether %s is its own (%s)", entry.name, path, first_line(error))
        else:
            if recognized:
                yield entry


def _without_prefix(state: State) -> State:
    """Return the weights without the first component of their keys, if all keys share it."""
    prefixes = {key.partition(".")[0] for key in state}
    if len(prefixes) != 1 or not all("." in key for key in state):
        return state
    return {key.partition(".")[2]: value for key, value in state.items()}


def _describe(state: State) -> str:
    keys = list(state)
    ends = keys if len(keys) <= 2 * SHOWN else [*keys[:SHOWN], *keys[-SHOWN:]]
    texts = [f"{short(key)} {list(state[key].shape)}" for key in ends]
    if len(keys) > 2 * SHOWN:
        texts.insert(SHOWN, "...")
    return f"it has {len(keys)} tensor{'s' * (len(keys) > 1)}: {', '.join(texts)}"


def _resemblance(state: State, families: Sequence[FamilyEntry]) -> str:
    """Say which family has most of its keys in a checkpoint, and which keys are missing."""
    layouts = [(entry.name, keys) for entry in families for keys in _keys_of(entry)]
    shares = {(name, keys): len(keys & state.keys()) / len(keys) for name, keys in layouts}
    if not shares or max(shares.values()) < ALIKE:
        return ""
    name, keys = max(shares, key=shares.__getitem__)
    missing = sorted(keys - state.keys())
    lacking = f", but lacks {', '.join(missing[:SHOWN])}" if missing else ", in other sizes or with other keys besides"
    return f"; it resembles {name}{lacking}"


def _keys_of(entry: FamilyEntry) -> tuple[frozenset[str], ...]:
    try:
        return entry.load().keys
    except Exception:  # noqa: BLE001 - `_matches` has logged it
        return ()
