"""The plugins of the examples and the hooks in code blocks of documents, as if a reader had installed them."""

import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from types import SimpleNamespace
from typing import Any

import pytest

from helpers.documents import ROOT, Block, blocks
from srptq_plugin.plugins.hookspecs import PROJECT

FOLDERS = [path.parent for path in sorted((ROOT / "examples").glob("*/pyproject.toml"))]
HOOKS = [block for block in blocks("python") if "@hookimpl" in block.text and not block.text.startswith("# ")]
"""Blocks with hooks. A block that begins with a comment is the file of an example."""


@dataclass(frozen=True)
class Shown:
    """An entry point that loads a block."""

    block: Block
    dist: None = None

    @property
    def name(self) -> str:
        return str(self.block)

    value = name

    def load(self) -> object:
        return plugin_of(self.block)


def plugin_of(block: Block) -> object:
    """Return the plugin that a module with the code of a block would be."""
    names: dict[str, Any] = {"__name__": str(block)}
    exec(block.text, names)  # noqa: S102 - our own documents
    return SimpleNamespace(**{name: value for name, value in names.items() if name.startswith("srptq_")})


def example_entry_points() -> Iterator[EntryPoint]:
    for folder in FOLDERS:
        project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        for name, value in project["entry-points"][PROJECT].items():
            yield EntryPoint(name, value, PROJECT)


def install(patch: pytest.MonkeyPatch) -> None:
    """Let every registry load these plugins while `patch` lasts."""
    for folder in FOLDERS:
        patch.syspath_prepend(str(folder))
    points = [*entry_points(group=PROJECT), *example_entry_points(), *map(Shown, HOOKS)]

    def select(group: str) -> list[Any]:
        return points if group == PROJECT else []

    patch.setattr("srptq_plugin.plugins.registry.entry_points", select)
