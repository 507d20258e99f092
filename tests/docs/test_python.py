"""The Python blocks of documents: each runs as pasted, in its own process, with smaller numbers."""

import shutil
from pathlib import Path

import pytest
from helpers import scripts
from helpers.documents import Block, blocks
from helpers.smaller import SMALLER, missing_packages, shortened
from notebooks import PAGES

BLOCKS = [block for block in blocks("python") if block.page not in PAGES.values()]
"""The blocks of a notebook's page need the earlier ones. They run as the notebook."""
FILE = "# "
"""A block that begins so with a file name is that file."""


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_a_block_runs_as_pasted(block: Block, weights: Path, tmp_path: Path) -> None:
    if absent := missing_packages(block.text):
        pytest.skip(f"needs {' and '.join(absent)}")
    shutil.copy(weights, tmp_path)
    for other in BLOCKS:
        name = other.text.partition("\n")[0].removeprefix(FILE)
        if other.text.startswith(FILE) and name.endswith(".py"):
            (tmp_path / name).write_text(other.text, encoding="utf-8")
    path = tmp_path / "pasted.py"
    path.write_text(shortened(block.text), encoding="utf-8")
    scripts.run(path, tmp_path)


@pytest.mark.parametrize("name", SMALLER)
def test_every_replaced_text_is_in_a_document(name: str) -> None:
    assert any(name in block.text for block in blocks("python"))
