"""Damaged files and values: cut short, with flipped bits, wrong types or missing keys, each drawn from a seed."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

Damage = Callable[[bytes], bytes]
Document = Any
WRONG: Sequence[Any] = (
    *(None, True, False, 0, -1, 7, 0.5, -2.5, 1e308, math.nan, math.inf, 10**30, 2**63),
    *("", "text", "8", "\0", "..", "../../elsewhere", "é" * 3, "x" * 5000, "a\nb", "{", "*"),
    *([], {}, [None], [[]], [1, 2, 3], ["a"], {"a": 1}, {"": None}, [{}], [0] * 40),
)
"""Values that are wrong for most keys."""
STOPPED = 0.3
"""The probability that an edit changes a value instead of descending into it."""


@dataclass(frozen=True)
class Mutation:
    """A way to damage a file. pytest shows its name."""

    name: str
    damage: Damage

    def __call__(self, content: bytes) -> bytes:
        return self.damage(content)

    def __str__(self) -> str:
        return self.name


def truncations(count: int) -> list[Mutation]:
    """Cut a file to n of `count` equal parts, from 0 parts on."""
    return [Mutation(f"cut-{n}-of-{count}", _cut(n / count)) for n in range(count)]


def flips(count: int, bits: int = 1) -> list[Mutation]:
    """Flip `bits` random bits, in `count` ways."""
    return [Mutation(f"{bits}-bits-{seed}", _flipped(seed, bits)) for seed in range(count)]


def flips_in_front(count: int, within: int) -> list[Mutation]:
    """Flip one bit among the first `within` bytes, where headers are."""
    return [Mutation(f"front-{seed}", _flipped(seed, 1, within)) for seed in range(count)]


def scribbles(count: int) -> list[Mutation]:
    """Overwrite, insert or remove bytes."""
    return [Mutation(f"scribble-{seed}", _scribbled(seed)) for seed in range(count)]


def replacements() -> list[Mutation]:
    """Replace a file by entirely different content."""
    return [
        Mutation(name, lambda _, content=content: content)
        for name, content in {
            "empty": b"",
            "zeros": bytes(4096),
            "text": b"hello, nothing of the kind\n",
            "html": b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
            "lfs": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12345\n",
            "utf16": '{"a": 1}'.encode("utf-16"),
            "zip": b"PK\x03\x04 cut off",
            "zip-empty": b"PK\x05\x06" + bytes(18),
            "gzip": b"\x1f\x8b\x08\x00\x00\x00\x00\x00",
            "pickle": b"\x80\x04N.",
            "null": b"null",
            "number": b"3",
            "list": b"[]",
            "mapping": b"{}",
            "deep": b"[" * 100_000,
            "long-number": b"1" * 5000,
        }.items()
    ]


def binary(cuts: int, flipped: int, scribbled: int, front: int = 0) -> list[Mutation]:
    """Return all kinds of damage to a binary file."""
    heads = flips_in_front(front, 256)
    return [*replacements(), *truncations(cuts), *flips(flipped), *heads, *flips(4, 64), *scribbles(scribbled)]


def edits(count: int, keys: Sequence[str] = ()) -> list[Mutation]:
    """Replace, remove, rename or swap values of a JSON file, below the given keys if there are any."""
    return [Mutation(f"edit-{seed}", _in_json(_edit(seed, keys))) for seed in range(count)]


def _drawn(seed: int) -> Random:
    return Random(seed)  # noqa: S311 - cases, no secrets


def _cut(share: float) -> Damage:
    return lambda content: content[: int(share * len(content))]


def _flipped(seed: int, bits: int, within: int | None = None) -> Damage:
    def damage(content: bytes) -> bytes:
        random, damaged = _drawn(seed), bytearray(content)
        for _ in range(bits):
            position = random.randrange(min(len(damaged), within or len(damaged)))
            damaged[position] ^= 1 << random.randrange(8)
        return bytes(damaged)

    return damage


def _scribbled(seed: int) -> Damage:
    def damage(content: bytes) -> bytes:
        random = _drawn(seed)
        start, count = random.randrange(len(content)), random.choice((1, 8, 100, 1000))
        new = random.choice((b"", bytes(count), b"\xff" * count, random.randbytes(count)))
        end = random.choice((start, start + count))
        return content[:start] + new + content[end:]

    return damage


def _in_json(edit: Callable[[Document], Document]) -> Damage:
    return lambda content: json.dumps(edit(json.loads(content))).encode()


def _edit(seed: int, keys: Sequence[str]) -> Callable[[Document], Document]:

    def edit(document: Document) -> Document:
        random = _drawn(seed)
        parent, key = _descend(document, random, keys)
        change = random.choice((_replaced, _replaced, _replaced, _gone, _renamed, _of_a_neighbor))
        change(parent, key, random)
        return document

    return edit


def _descend(document: Document, random: Random, keys: Sequence[str]) -> tuple[Document, Any]:
    parent, key = document, random.choice(keys or list(document))
    while isinstance(parent[key], dict | list) and parent[key] and random.random() > STOPPED:
        parent = parent[key]
        key = random.choice(_keys(parent))
    return parent, key


def _keys(parent: Document) -> list[Any]:
    return list(parent) if isinstance(parent, dict) else list(range(len(parent)))


def _replaced(parent: Document, key: Any, random: Random) -> None:
    parent[key] = random.choice(WRONG)


def _gone(parent: Document, key: Any, _: Random) -> None:
    del parent[key]


def _renamed(parent: Document, key: Any, random: Random) -> None:
    if isinstance(parent, dict):
        parent[f"{key}s"] = parent.pop(key)
    else:
        parent.insert(key, random.choice(WRONG))


def _of_a_neighbor(parent: Document, key: Any, random: Random) -> None:
    parent[key] = parent[random.choice(_keys(parent))]
