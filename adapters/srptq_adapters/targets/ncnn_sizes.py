"""Sizes that a network computes from the image's, as expressions that ncnn evaluates."""

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import inf
from typing import Any

from onnx import NodeProto

from srptq_adapters.targets.onnx_graph import attribute

LETTERS: Mapping[int, str] = {1: "w", 2: "hw", 3: "chw", 4: "cdhw"}
"""The sizes of a blob by its number of dimensions, outermost first."""
OPERATORS: Mapping[str, str] = {
    "Add": "+", "Sub": "-", "Mul": "*", "Div": "//", "Max": "max", "Min": "min", "Mod": "remainder", "Neg": "neg",
}  # fmt: skip


@dataclass(frozen=True)
class Measure:
    """The size of a tensor along an axis. The batch is axis 0."""

    value: str
    axis: int
    rank: int


@dataclass(frozen=True)
class Formula:
    """An operation on sizes."""

    op: str
    arguments: tuple["Size", ...]


Size = int | Measure | Formula
Sizes = tuple[Size, ...]


def measures(size: Size) -> set[Measure]:
    """Return the sizes of tensors that a size depends on."""
    if isinstance(size, Formula):
        return set[Measure]().union(*map(measures, size.arguments))
    return {size} if isinstance(size, Measure) else set()


def text(size: Size, inputs: Sequence[str]) -> str:
    """Return a size as ncnn's expression, for a layer with these inputs.

    >>> text(Formula("*", (2, Measure("x", 3, 4))), ["y", "x"])
    '*(2,1w)'
    """
    if isinstance(size, int):
        return str(size)
    if isinstance(size, Measure):
        return "1" if size.axis == 0 else f"{inputs.index(size.value)}{LETTERS[size.rank - 1][size.axis - 1]}"
    return f"{size.op}({','.join(text(argument, inputs) for argument in size.arguments)})"


def bounds(size: Size) -> tuple[float, float]:
    """Return the least and the largest value that a size can have, for images of any size.

    >>> bounds(Formula("neg", (Formula("remainder", (Measure("x", 2, 4), 4)),)))
    (-3, 0)
    """
    if isinstance(size, int):
        return size, size
    if isinstance(size, Measure):
        return 1, inf
    if size.op == "remainder" and isinstance(size.arguments[1], int):
        return 0, size.arguments[1] - 1
    corners = [KNOWN[size.op](*corner) for corner in product(*map(bounds, size.arguments))]
    return min(corners), max(corners)


def compute(op: str, *arguments: Size) -> Size:
    """Return an operation on sizes, computed if all are known.

    >>> compute("+", 2, 3)
    5
    """
    if not any(measures(argument) for argument in arguments):
        return KNOWN[op](*arguments)
    return Formula(op, arguments)


KNOWN: Mapping[str, Callable[..., Any]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "//": operator.floordiv,
    "max": max,
    "min": min,
    "neg": operator.neg,
    "remainder": operator.mod,
}


def evaluate(node: NodeProto, inputs: Sequence[Sizes]) -> Sizes | None:
    """Return what a node computes from sizes, or None if it is no operation on sizes."""
    if node.op_type in OPERATORS:
        count = max(map(len, inputs))
        columns = zip(*(sizes * (count if len(sizes) == 1 else 1) for sizes in inputs), strict=True)
        return tuple(compute(OPERATORS[node.op_type], *column) for column in columns)
    return SELECTIONS[node.op_type](*inputs) if node.op_type in SELECTIONS else None


def _same(sizes: Sizes, *_: Sizes) -> Sizes:
    return sizes


def _join(*parts: Sizes) -> Sizes:
    return tuple(size for sizes in parts for size in sizes)


def _gather(sizes: Sizes, indices: Sizes) -> Sizes:
    return tuple(sizes[index] for index in indices if isinstance(index, int))


def _slice(sizes: Sizes, starts: Sizes, ends: Sizes, *_: Sizes) -> Sizes:
    start, end = (next((size for size in part if isinstance(size, int)), None) for part in (starts, ends))
    return sizes[start:end]


SELECTIONS: Mapping[str, Callable[..., Sizes]] = {
    **dict.fromkeys(("Cast", "Identity", "Reshape", "Squeeze", "Unsqueeze"), _same),
    "Concat": _join,
    "Gather": _gather,
    "Slice": _slice,
}
"""Operations that choose among sizes."""


def shape(node: NodeProto, rank: int) -> Sizes:
    """Return what a Shape node reads of a tensor of this rank."""
    start, end = (attribute(node, "start", 0), attribute(node, "end", rank))
    return tuple(Measure(node.input[0], axis, rank) for axis in range(rank)[start:end])
