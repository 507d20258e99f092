"""The list of slow tests names tests that there are."""

from pathlib import Path

import pytest
from helpers.documents import ROOT

LISTED = (ROOT / "tests" / "slow.txt").read_text(encoding="utf-8").split()


@pytest.mark.parametrize("line", LISTED)
def test_a_listed_test_is_there(line: str) -> None:
    path, _, name = line.partition("::")
    assert Path(ROOT / path).is_file()
    assert not name or f"def {name}(" in (ROOT / path).read_text(encoding="utf-8")


def test_the_list_is_sorted() -> None:
    assert sorted(set(LISTED)) == LISTED
