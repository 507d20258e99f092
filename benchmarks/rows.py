"""Measurements of benchmarks, in a file to which several processes may add. A restarted benchmark skips known rows."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Key = tuple[str, ...]
"""Everything on which a measurement depends. Two measurements with equal keys are interchangeable."""


class Rows:
    """Measurements by key, in memory and as JSON lines in a file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        lines = path.read_text().splitlines() if path.is_file() else []
        self.known: dict[Key, Mapping[str, Any]] = {tuple(row.pop("key")): row for row in map(json.loads, lines)}

    def get(self, key: Key) -> Mapping[str, Any] | None:
        """Return a measurement, or None if it is missing."""
        return self.known.get(key)

    def add(self, key: Key, row: Mapping[str, Any]) -> None:
        """Store a measurement, here and in the file."""
        self.known[key] = row
        with self.path.open("a") as file:
            file.write(json.dumps({"key": key, **row}) + "\n")
