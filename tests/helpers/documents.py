"""The documents: their fenced blocks, commands, inline code and links."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = (ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md")))
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)
SPAN = re.compile(r"`([^`\n]+(?:\n[^`\n]+)?)`")
WEIGHTS = "edsr_x4.pth"
"""The checkpoint that a reader is assumed to have."""
LINK = re.compile(r"\]\(([^)\s]+)\)")


@dataclass(frozen=True)
class Block:
    """A fenced block, printed as its page and line."""

    page: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{title(self.page)}:{self.line}"


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
    """Return the blocks of all pages, or only the blocks in one language."""
    all_blocks = (block for page in PAGES for block in _blocks(page))
    return tuple(block for block in all_blocks if language in ("", block.language))


@cache
def commands(program: str = "") -> tuple[Command, ...]:
    """Return the shell commands of all pages in order, or only the commands that run one program."""
    all_commands = (command for block in blocks("sh") for command in commands_of(block))
    return tuple(command for command in all_commands if program in ("", command.program))


def commands_of(block: Block) -> Iterator[Command]:
    """Yield the commands of one block."""
    for line in block.text.replace("\\\n", " ").splitlines():
        for part in _parts(shlex.split(line, comments=True)):
            count = next(n for n, word in enumerate(part) if not re.match(r"[A-Z_]+=", word))
            yield Command(block, tuple(part[:count]), part[count], tuple(part[count + 1 :]))


def title(page: Path) -> str:
    """Return a page's path without the folder of all documents."""
    return page.relative_to(ROOT).as_posix().removeprefix("docs/")


def prose(page: Path) -> str:
    """Return a page without its blocks."""
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def spans(page: Path) -> list[str]:
    """Return the inline code of a page."""
    return [" ".join(span.split()) for span in SPAN.findall(prose(page))]


def links(page: Path) -> list[str]:
    """Return the targets of a page's links."""
    return LINK.findall(prose(page))


def _blocks(page: Path) -> Iterator[Block]:
    text = page.read_text(encoding="utf-8")
    for match in FENCE.finditer(text):
        yield Block(page, text.count("\n", 0, match.start()) + 1, match[2], match[3])


def _parts(words: list[str]) -> Iterator[list[str]]:
    """Split a line of words at `&&`."""
    while words:
        count = words.index("&&") if "&&" in words else len(words)
        yield words[:count]
        words = words[count + 1 :]
