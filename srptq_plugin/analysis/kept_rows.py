"""Measurements of an analysis, kept in a file until it is finished. A resumed analysis repeats none of them."""

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from srptq_plugin.analysis.subject import Subject
from srptq_plugin.errors import SrptqError, first_line
from srptq_plugin.utils.atomic_file import atomic_file
from srptq_plugin.utils.checkpoint import digest, tensor_bytes
from srptq_plugin.utils.distributed import all_gather, deal, from_first, is_first, world_size

logger = logging.getLogger(__name__)
Row = Sequence[float]
Measure = Callable[[str], Row]


class KeptRows:
    """Rows of numbers by key, in memory and, given a path, as lines of JSON in a file.

    Each key begins with a digest of the subject, so that rows of another network or of other images are not used.
    The first of several processes writes the file.
    """

    def __init__(self, path: Path | None = None, *, resume: bool = False) -> None:
        self._path, self._begun = path, False
        self._rows: dict[str, Row] = from_first(lambda: dict(_read(path)) if path and resume else {})
        if resume and not self._rows:
            logger.warning("no rows in %s: nothing to resume, so the analysis starts from the beginning", path)

    def measure(self, subject: str, keys: Sequence[str], measure: Measure) -> None:
        """Measure the keys that have no row yet. The processes share them.

        Args:
            subject: The name of the subject, from `name_of`.
            keys: The keys of the rows.
            measure: Returns the row of a key.
        """
        known = {key for key in keys if f"{subject} {key}" in self._rows}
        own: dict[str, Row] = {}
        for key in deal([key for key in keys if key not in known]):
            own[f"{subject} {key}"] = measure(key)
            if world_size() == 1:
                self._add(own)
                own = {}
        for rows in all_gather(own) if world_size() > 1 else ():
            self._add(rows)

    def row(self, subject: str, key: str) -> Row:
        """Return a row that was measured."""
        return self._rows[f"{subject} {key}"]

    def remove(self) -> None:
        """Remove the file of a finished analysis."""
        if self._path and is_first():
            self._path.unlink(missing_ok=True)

    def _add(self, rows: Mapping[str, Row]) -> None:
        self._rows |= rows
        if not (self._path and is_first()):
            return
        if self._begun:
            with self._path.open("a", encoding="utf-8") as file:
                file.writelines(_lines(rows))
        else:  # without the part of a line that a killed process left
            with atomic_file(self._path) as draft:
                draft.write_text("".join(_lines(self._rows)), encoding="utf-8")
        self._begun = True


def name_of(subject: Subject, *others: bytes) -> str:
    """Return a digest of a network, its table, its patches, and of further inputs."""
    table = subject.table
    numbers = {f"{name} scale": qparams.scale for name, qparams in table.qparams.items()}
    numbers |= {f"{name} zero": qparams.zero_point for name, qparams in table.qparams.items()}
    named = [numbers, table.weights, table.biases, subject.network.state_dict(), {"patches": subject.patches}]
    return digest([*(part for tensors in named for part in tensor_bytes(tensors)), *others])[:16]


def _lines(rows: Mapping[str, Row]) -> Iterator[str]:
    return (json.dumps([key, row]) + "\n" for key, row in rows.items())


def _read(path: Path) -> Iterator[tuple[str, Row]]:
    if not path.is_file():
        return
    lines = path.read_text(encoding="utf-8").split("\n")
    # A process that was killed while it wrote leaves a part of a line at the end.
    for number, line in enumerate(lines[:-1], 1):
        try:
            row: Any = json.loads(line)
            yield str(row[0]), [float(value) for value in row[1]]
        except (ValueError, TypeError, LookupError) as error:
            raise SrptqError(
                f"{path}: line {number}: damaged ({first_line(error)}); remove the file to start again"
            ) from error
