"""The notebooks run, with smaller numbers, and their pages hold the same cells."""

import re
import shutil
from pathlib import Path

import notebooks
import pytest
from helpers import scripts
from helpers.documents import WEIGHTS, blocks
from helpers.smaller import missing_packages, shortened


@pytest.mark.parametrize("name", notebooks.PAGES)
def test_a_notebook_runs(name: str, weights: Path, tmp_path: Path) -> None:
    text = (notebooks.NOTEBOOKS / name).read_text(encoding="utf-8")
    if absent := missing_packages(text):
        pytest.skip(f"needs {' and '.join(absent)}")
    shutil.copy(weights, tmp_path / WEIGHTS)
    path = tmp_path / name
    path.write_text(shortened(text), encoding="utf-8")
    assert scripts.run(path, tmp_path)


@pytest.mark.parametrize("name", notebooks.PAGES)
def test_a_page_holds_the_cells(name: str) -> None:
    cells = list(notebooks.cells(notebooks.NOTEBOOKS / name))
    page = notebooks.PAGES[name]
    assert [block.text.strip("\n") for block in blocks("python") if block.page == page] == [
        cell.text for cell in cells if cell.is_code
    ]
    text = page.read_text(encoding="utf-8")
    assert all(cell.text in text for cell in cells)
    assert re.search(r"^```text\n.+", text, re.MULTILINE)


def test_every_notebook_has_a_page() -> None:
    assert {path.name for path in notebooks.NOTEBOOKS.glob("*.py")} == notebooks.PAGES.keys()
