"""The check of language itself."""

from pathlib import Path

import language
import pytest

FAULTS = {
    '"""Normalise the image."""': "z, not s",
    '"""What is read. The colour of a pixel."""': "color",
    "def widen() -> None:\n    '''The wider bounds.'''": "begin with a verb",
    "def widen() -> None:\n    '''Widen bounds; return nothing.'''": "write two sentences",
    "bounds = 1  # wide; not narrow": "write two sentences",
    "raise ValueError('give those of the run')": "the noun again",
    "found = 1": "name what it means",
    "def widen(each: int) -> None: ...": "name what it means",
    "for told in (): pass": "name what it means",
    "def test_that_this_very_name_has_far_too_many_words() -> None: ...": "at most 8",
}
PLAIN = '''"""The bounds of a tensor."""


def widen(bounds: float) -> float:
    """Return wider bounds.

    >>> widen(1.0); widen(2.0)
    """
    return bounds * 2  # `a; b` is code
'''


@pytest.mark.parametrize("code", FAULTS)
def test_a_fault_is_named(code: str, tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text(code + "\n")
    assert any(FAULTS[code] in problem for _, problem in language.problems(path))


def test_plain_code_passes(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text(PLAIN)
    assert list(language.problems(path)) == []


def test_code_blocks_of_documents_are_not_prose(tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    path.write_text("Plain words.\n\n```sh\necho 'those of'\n```\n\nNot those of others.\n")
    assert [number for number, _ in language.problems(path)] == [7]
