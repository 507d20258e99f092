"""The example plugins, as if a reader had installed them."""

import tomllib
from collections.abc import Iterator
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import pytest

from helpers.documents import ROOT
from srptq_plugin.plugins.hookspecs import PROJECT

FOLDERS = [path.parent for path in sorted((ROOT / "examples").glob("*/pyproject.toml"))]
"""The folders of the examples that can be installed."""


def example_entry_points() -> Iterator[EntryPoint]:
    """Yield the entry points of all examples."""
    for folder in FOLDERS:
        project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        for name, value in project["entry-points"][PROJECT].items():
            yield EntryPoint(name, value, PROJECT)


def install(patch: pytest.MonkeyPatch) -> None:
    """Let every registry load the examples while `patch` lasts."""
    for folder in FOLDERS:
        patch.syspath_prepend(str(folder))
    points = [*entry_points(group=PROJECT), *example_entry_points()]

    def select(group: str) -> list[Any]:
        return points if group == PROJECT else []

    patch.setattr("srptq_plugin.plugins.registry.entry_points", select)
