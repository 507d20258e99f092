"""Run the notebooks, and write each with what it prints as a page of the tutorials.

    python docs/notebooks.py [NOTEBOOK ...]

A notebook is a script of `examples/notebooks` in the percent format, which Jupyter (with jupytext), VS Code and PyCharm
open. The one for MQBench needs MQBench.
"""

import io
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = ROOT / "examples" / "notebooks"
PAGES = {
    "first_look.py": ROOT / "docs" / "tutorials" / "first-look.md",
    "torchao_pt2e.py": ROOT / "docs" / "tutorials" / "torchao.md",
    "mqbench_config.py": ROOT / "docs" / "tutorials" / "mqbench.md",
}
"""The page of each notebook."""
MARKER = re.compile(r"^# %%(.*)\n", re.MULTILINE)
FENCE = "```"


@dataclass(frozen=True)
class Cell:
    """A cell of a notebook: prose in Markdown, or code."""

    text: str
    is_code: bool


def cells(notebook: Path) -> Iterator[Cell]:
    """Yield the cells of a notebook."""
    _, *parts = MARKER.split(notebook.read_text(encoding="utf-8"))
    for kind, text in zip(parts[::2], parts[1::2], strict=True):
        if "[markdown]" in kind:
            yield Cell(re.sub(r"^# ?", "", text.strip(), flags=re.MULTILINE), is_code=False)
        else:
            yield Cell(text.strip("\n"), is_code=True)


def page(notebook: Path) -> str:
    """Run a notebook in the current folder, and return its page."""
    variables: dict[str, Any] = {"__name__": "__main__"}
    name = notebook.relative_to(ROOT).as_posix()
    parts: list[str] = []
    for cell in cells(notebook):
        parts.append(f"{FENCE}python\n{cell.text}\n{FENCE}" if cell.is_code else cell.text)
        printed = _run(cell.text, variables) if cell.is_code else ""
        parts += [f"{FENCE}text\n{printed}{FENCE}"] if printed else []
    source = f"[{name}](../../{name}) is this page as a notebook. `python docs/notebooks.py` ran it and wrote the page."
    return "\n\n".join([*parts, source]) + "\n"


def _run(code: str, variables: dict[str, Any]) -> str:
    """Run the code of a cell, and return the text that it prints."""
    output = io.StringIO()
    with redirect_stdout(output):
        exec(code, variables)  # noqa: S102 - our own notebooks
    return output.getvalue()


def main(names: Sequence[str]) -> None:
    """Write the pages of these notebooks, by default of all."""
    for name in names or PAGES:
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            text = page(NOTEBOOKS / name)
            os.chdir(ROOT)
        PAGES[name].write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
