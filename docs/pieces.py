"""Markdown helpers for the generated parts of documents."""

import re
from collections.abc import Iterable, Sequence

Row = Sequence[str]


def table(columns: Row, rows: Iterable[Row]) -> str:
    """Return a Markdown table.

    >>> print(table(["a"], [["1"]]))
    | a |
    | --- |
    | 1 |
    """
    return "\n".join(f"| {' | '.join(row)} |" for row in (columns, ["---"] * len(columns), *rows))


def sentences(doc: str) -> str:
    r"""Return a docstring's text before its example, with one line for each paragraph.

    >>> sentences("One\nsentence.\n\n>>> 1 + 1\n2")
    'One sentence.'
    """
    text = doc.partition(">>>")[0].strip()
    return "\n\n".join(_joined(paragraph) for paragraph in text.split("\n\n"))


def _joined(paragraph: str) -> str:
    """Join the lines of a paragraph. An item of a list begins a line of its own."""
    return re.sub(r"\s*\n(?!\d+\. |\* )\s*", " ", paragraph)
