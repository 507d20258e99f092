"""The documents, for tests: fenced blocks, the commands in them, inline code and links."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = (ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md")))
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)
SPAN = re.compile(r"`([^`\n]+(?:\n[^`\n]+)?)`")
WEIGHTS = "edsr_x4.pth"
"""The checkpoint that a reader is assumed to have."""
LINK = re.compile(r"\]\(([^)\s]+)\)")


@dataclass(frozen=True)
class Block:
    """A fenced block; it prints as where it stands."""

    page: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


@dataclass(frozen=True)
class Command:
    """One command of a block: the variables before it, the program and its arguments."""

    block: Block
    variables: tuple[str, ...]
    program: str
    arguments: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.block} {shlex.join([self.program, *self.arguments])}"


@cache
def blocks(language: str = "") -> tuple[Block, ...]:
    """All blocks of all pages, or those in a language."""
    found = (block for page in PAGES for block in _blocks(page))
    return tuple(block for block in found if language in ("", block.language))


def _blocks(page: Path) -> Iterator[Block]:
    text = page.read_text(encoding="utf-8")
    for found in FENCE.finditer(text):
        yield Block(page, text.count("\n", 0, found.start()) + 1, found[2], found[3])


@cache
def commands(program: str = "") -> tuple[Command, ...]:
    """What the blocks tell to type, in order."""
    found = (command for block in blocks("sh") for command in commands_of(block))
    return tuple(command for command in found if program in ("", command.program))


def commands_of(block: Block) -> Iterator[Command]:
    """The commands of one block."""
    for line in block.text.replace("\\\n", " ").splitlines():
        for part in _parts(shlex.split(line, comments=True)):
            count = next(n for n, word in enumerate(part) if not re.match(r"[A-Z_]+=", word))
            yield Command(block, tuple(part[:count]), part[count], tuple(part[count + 1 :]))


def _parts(words: list[str]) -> Iterator[list[str]]:
    """What stands between `&&`."""
    while words:
        count = words.index("&&") if "&&" in words else len(words)
        yield words[:count]
        words = words[count + 1 :]


def prose(page: Path) -> str:
    """A page without its blocks."""
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def spans(page: Path) -> list[str]:
    """The inline code of a page."""
    return [" ".join(span.split()) for span in SPAN.findall(prose(page))]


def links(page: Path) -> list[str]:
    """Where a page's links lead."""
    return LINK.findall(prose(page))
