"""What benchmarks measured, in a file that several processes may add to: started again, they go on."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Key = tuple[str, ...]


class Rows:
    """Measurements by what makes two of them the same."""

    def __init__(self, path: Path) -> None:
        self.path = path
        lines = path.read_text().splitlines() if path.is_file() else []
        self.known: dict[Key, Mapping[str, Any]] = {tuple(row.pop("key")): row for row in map(json.loads, lines)}

    def of(self, key: Key) -> Mapping[str, Any] | None:
        """A measurement, if it was made."""
        return self.known.get(key)

    def add(self, key: Key, row: Mapping[str, Any]) -> None:
        """Keep a measurement, here and in the file."""
        self.known[key] = row
        with self.path.open("a") as file:
            file.write(json.dumps({"key": key, **row}) + "\n")
