"""Reports of facts and tables: in color in a terminal, as plain lines in a pipe."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TextIO

from srptq_plugin.errors import printable

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text


@dataclass(frozen=True)
class Mark:
    """A verdict. A terminal shows a tick or a cross before the text."""

    text: str
    good: bool


Cell = str | Mark


@dataclass(frozen=True)
class Facts:
    """Labels and values. A label may occur several times."""

    rows: Sequence[tuple[str, Cell]]


@dataclass(frozen=True)
class Table:
    """Columns and rows. The columns named in `right` are aligned to the right.

    The last `wordy` columns hold sentences. A narrow terminal shows them below the table.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    right: frozenset[str] = frozenset()
    wordy: int = 0


@dataclass(frozen=True)
class Lines:
    """Text to copy, which is never wrapped or colored."""

    lines: Sequence[str]
    title: str = ""


Block = Facts | Table | Lines
NARROW = 110
"""Width of the narrowest terminal that has room for a column of sentences."""
ANOTHER = 10
"""Width that each further column of sentences needs."""
GAP = 3
"""Width between two columns."""


def first_names(names: Sequence[str], few: int) -> str:
    """Name a few, and count the rest.

    >>> first_names(["a", "b", "c"], 2), first_names(["a", "b"], 2)
    ('a, b and 1 more', 'a, b')
    """
    more = f" and {len(names) - few} more" if len(names) > few else ""
    return ", ".join(names[:few]) + more


def show(report: Sequence[Block], stream: TextIO) -> None:
    """Print a report, in color if the stream is a terminal."""
    if stream.isatty():
        _in_terminal(report, stream)
    else:
        stream.write(plain(report))


def plain(report: Sequence[Block]) -> str:
    """Format a report as lines without color or boxes.

    >>> print(plain([Facts([("target", "openvino")]), Table(["stage", "sites"], [["head", "1"]])]), end="")
    target: openvino
    <BLANKLINE>
    stage  sites
    head   1
    """
    return "\n\n".join("\n".join(_plain_lines(block)) for block in report) + "\n"


def _plain_lines(block: Block) -> Iterator[str]:
    if isinstance(block, Facts):
        return (f"{label}: {_words(value)}" for label, value in block.rows)
    if isinstance(block, Table):
        return _plain_table(block)
    return iter([f"{block.title}:", *block.lines] if block.title else block.lines)


def _plain_table(table: Table) -> Iterator[str]:
    rows = [list(table.columns), *([_words(cell) for cell in row] for row in table.rows)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    sides = [str.rjust if name in table.right else str.ljust for name in table.columns]
    for row in rows:
        cells = zip(sides, row, widths, strict=True)
        yield "  ".join(side(text, width) for side, text, width in cells).rstrip()


def _words(cell: Cell) -> str:
    return printable(cell.text if isinstance(cell, Mark) else cell)


def _in_terminal(report: Sequence[Block], stream: TextIO) -> None:
    from rich.console import Console  # noqa: PLC0415 - `srptq --help` answers without it

    console = Console(file=stream, highlight=False)
    for number, block in enumerate(_fitted(report, console.width)):
        if number:
            console.print()
        if isinstance(block, Lines):
            _print_lines(block, console.print)
        else:
            console.print(_rich_facts(block) if isinstance(block, Facts) else _rich_table(block, console.width))


def _fitted(report: Sequence[Block], width: int) -> Iterator[Block]:
    for block in report:
        if not isinstance(block, Table):
            yield block
        elif block.wordy and width < NARROW + ANOTHER * (block.wordy - 1):
            short = len(block.columns) - block.wordy
            yield _whole_words(Table(block.columns[:short], [row[:short] for row in block.rows], block.right), width)
            yield _below(block)
        else:
            yield _whole_words(block, width)


def _whole_words(table: Table, width: int) -> Block:
    """Return the table, or a line for each of its cells if its words are too long for columns."""
    return table if _room(table, width) >= 0 else _below(replace(table, wordy=len(table.columns) - 1))


def _room(table: Table, width: int) -> int:
    """Return the width left over when each column is as wide as its longest word. Negative if there is too little."""
    return width - GAP * (len(table.columns) - 1) - sum(_least(table))


def _least(table: Table) -> list[int]:
    """Return the least width of each column: its longest word or, as the first is never wrapped, its longest cell."""
    first, *others = _columns(table)
    widths = [max(_length(word) for cell in column for word in _split(cell)) for column in others]
    return [max(map(_length, first)), *widths]


def _columns(table: Table) -> Iterator[tuple[Cell, ...]]:
    return zip(*[table.columns, *table.rows], strict=True)


def _split(cell: Cell) -> list[str]:
    return _words(cell).split() or [""]


def _length(cell: Cell) -> int:
    """Return the width of a cell on the screen, with its tick or cross."""
    from rich.cells import cell_len  # noqa: PLC0415

    return cell_len(_words(cell)) + (0 if isinstance(cell, str) else len("✓ "))


def _widths(table: Table, width: int) -> list[int]:
    """Return the width of each column.

    Every column gets the width of its longest word. The room left is shared in proportion to the width that each column
    still lacks for its longest cell.
    """
    least, most = _least(table), [max(map(_length, column)) for column in _columns(table)]
    lacking = [full - word for full, word in zip(most, least, strict=True)]
    room = min(_room(table, width), sum(lacking))
    return [word + lack * room // max(sum(lacking), 1) for word, lack in zip(least, lacking, strict=True)]


def _below(table: Table) -> Facts:
    """Turn the columns of sentences into facts, without duplicates."""
    return Facts(list(dict.fromkeys(fact for row in table.rows for fact in _sentences(table, row))))


def _sentences(table: Table, row: Sequence[Cell]) -> Iterator[tuple[str, Cell]]:
    """Yield the sentences of a row, labeled by its first cell, and by the column if there are several."""
    for name, cell in zip(table.columns[-table.wordy :], row[-table.wordy :], strict=True):
        sentence = f"{name}: {_words(cell)}" if table.wordy > 1 else _words(cell)
        if _words(cell):
            yield _words(row[0]), Mark(sentence, cell.good) if isinstance(cell, Mark) else sentence


def _print_lines(block: Lines, write: Callable[..., None]) -> None:
    from rich.text import Text  # noqa: PLC0415

    if block.title:
        write(Text(block.title, style="bold"))
    for line in block.lines:
        write(Text(f"  {line}" if block.title else line), soft_wrap=True)


def _rich_facts(facts: Facts) -> "RenderableType":
    from rich.table import Table as RichTable  # noqa: PLC0415

    grid = RichTable.grid(padding=(0, 2))
    grid.add_column(style="cyan", no_wrap=True)
    grid.add_column(overflow="fold")
    before = ""
    for label, value in facts.rows:
        grid.add_row("" if label == before else label, _styled(value))
        before = label
    return grid


def _rich_table(table: Table, width: int) -> "RenderableType":
    from rich.box import SIMPLE_HEAD  # noqa: PLC0415
    from rich.table import Table as RichTable  # noqa: PLC0415

    grid = RichTable(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bold")
    widths = _widths(table, width)
    for number, name in enumerate(table.columns):
        grid.add_column(
            name,
            justify="right" if name in table.right else "left",
            style="" if number else "cyan",
            no_wrap=not number,
            overflow="fold",
            width=widths[number],
        )
    for row in table.rows:
        grid.add_row(*map(_styled, row))
    return grid


def _styled(cell: Cell) -> "Text":
    from rich.text import Text  # noqa: PLC0415

    if isinstance(cell, str):
        return Text(_words(cell))
    return Text(f"{'✓' if cell.good else '✗'} {_words(cell)}", style="green" if cell.good else "bold red")
