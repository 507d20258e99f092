"""The plugins that documents show, as if a reader had installed them: the examples', and the hooks in blocks."""

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
"""Those that are not the file of an example."""


@dataclass(frozen=True)
class Shown:
    """An entry point that leads to a block."""

    block: Block
    dist: None = None

    @property
    def name(self) -> str:
        return str(self.block)

    value = name

    def load(self) -> object:
        return plugin_of(self.block)


def plugin_of(block: Block) -> object:
    """What a module of this block would be."""
    names: dict[str, Any] = {"__name__": str(block)}
    exec(block.text, names)  # noqa: S102 - our own documents
    return SimpleNamespace(**{name: each for name, each in names.items() if name.startswith("srptq_")})


def of_examples() -> Iterator[EntryPoint]:
    for folder in FOLDERS:
        project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        for name, value in project["entry-points"][PROJECT].items():
            yield EntryPoint(name, value, PROJECT)


def install(patch: pytest.MonkeyPatch) -> None:
    """Every registry finds them."""
    for folder in FOLDERS:
        patch.syspath_prepend(str(folder))
    found = [*entry_points(group=PROJECT), *of_examples(), *map(Shown, HOOKS)]

    def of_group(group: str) -> list[Any]:
        return found if group == PROJECT else []

    patch.setattr("srptq_plugin.plugins.registry.entry_points", of_group)
