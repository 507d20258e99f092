"""HTML pages, read with the standard library."""

from base64 import b64decode
from collections.abc import Sequence
from dataclasses import dataclass, field
from html.parser import HTMLParser
from io import BytesIO
from typing import Any

import numpy as np
import PIL.Image
from numpy.typing import NDArray

VOID = frozenset({"meta", "link", "img", "input", "br"})
PNG = "data:image/png;base64,"


@dataclass
class Element:
    """An element: its tag, its attributes, its children, and the text in it."""

    tag: str
    attributes: dict[str, str] = field(default_factory=dict[str, str])
    children: list["Element | str"] = field(default_factory=list[Any])

    @property
    def text(self) -> str:
        """The text of this element and its descendants, with single spaces."""
        parts = [child if isinstance(child, str) else child.text for child in self.children]
        return " ".join(" ".join(parts).split())

    def all(self, tag: str, **attributes: str) -> "list[Element]":
        """Return all descendants of a tag that have these attributes."""
        hits: list[Element] = []
        for child in self.children:
            if isinstance(child, Element):
                wanted = {name.rstrip("_"): value for name, value in attributes.items()}
                if child.tag == tag and wanted.items() <= child.attributes.items():
                    hits.append(child)
                hits += child.all(tag, **attributes)
        return hits

    def one(self, tag: str, **attributes: str) -> "Element":
        """Return the only descendant of a tag with these attributes."""
        (element,) = self.all(tag, **attributes)
        return element


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open = [Element("")]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {name: value or "" for name, value in attrs})
        self.open[-1].children.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open[-1].children.append(Element(tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        closed = self.open.pop()
        assert closed.tag == tag, f"<{closed.tag}> is closed by </{tag}>"

    def handle_data(self, data: str) -> None:
        self.open[-1].children.append(data)


def read_page(text: str) -> Element:
    """Read a page whose elements are closed in order."""
    reader = _Reader()
    reader.feed(text)
    (root,) = reader.open
    return root


def rows(table: Element) -> list[list[str]]:
    """Return the cells of a table as text."""
    return [[cell.text for cell in row.children if isinstance(cell, Element)] for row in table.all("tr")]


def picture(address: str) -> NDArray[np.uint8]:
    """Decode an image in the page."""
    assert address.startswith(PNG)
    return np.asarray(PIL.Image.open(BytesIO(b64decode(address.removeprefix(PNG)))).convert("RGB"))


def addresses(page: Element) -> Sequence[str]:
    """Return all addresses that a page would load or link to."""
    tags = ("a", "link", "img", "script", "iframe", "source", "use", "image", "form")
    names = ("src", "href", "srcset", "action", "xlink:href")
    return [
        element.attributes[name]
        for tag in tags
        for element in page.all(tag)
        for name in names
        if name in element.attributes
    ]
