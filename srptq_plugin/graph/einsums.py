"""Sums of products in Einstein's notation, computed as the matrix products that integer kernels know."""

from collections.abc import Sequence
from typing import Any

from torch import fx

from srptq_plugin.graph.program_edits import add_call, aten


def split_einsums(graph: fx.Graph) -> None:
    """Compute every einsum that is a batch of matrix products as one, in place."""
    for einsum in graph.find_nodes(op="call_function", target=aten.einsum.default):
        _split(graph, einsum)


def _split(graph: fx.Graph, einsum: fx.Node) -> None:
    equation: Any = einsum.args[0]
    operands: Any = einsum.args[1]
    inputs, _, output = equation.replace(" ", "").partition("->")
    terms = inputs.split(",")
    axes = _matrix_axes(terms, output)
    if axes is None:
        return
    batch, row, column, inner = axes
    with graph.inserting_before(einsum):
        factors = [
            _permute(graph, operand, term, wanted, einsum)
            for operand, term, wanted in zip(
                operands, terms, (batch + row + inner, batch + inner + column), strict=True
            )
        ]
        product = add_call(graph, aten.matmul.default, factors, einsum)
        result = _permute(graph, product, batch + row + column, output, einsum)
    einsum.replace_all_uses_with(result)
    graph.erase_node(einsum)


def _matrix_axes(terms: Sequence[str], output: str) -> tuple[str, str, str, str] | None:
    """Return the letters of the batch, the rows, the columns and the sum, or None if this is no matrix product.

    >>> _matrix_axes(["bijc", "bikc"], "bijk")
    ('bi', 'j', 'k', 'c')
    >>> _matrix_axes(["bic", "c"], "bi") is None
    True
    """
    if len(terms) != 2 or any(len(set(term)) < len(term) or not term.isalpha() for term in (*terms, output)):  # noqa: PLR2004
        return None
    left, right = terms
    batch = "".join(letter for letter in left if letter in right and letter in output)
    parts = [set(left) - set(right), set(right) - set(left), set(left) & set(right) - set(output)]
    if any(len(part) != 1 for part in parts) or set(output) != set(batch) | parts[0] | parts[1]:
        return None
    row, column, inner = (part.pop() for part in parts)
    return batch, row, column, inner


def _permute(graph: fx.Graph, node: fx.Node, letters: str, wanted: str, origin: fx.Node) -> fx.Node:
    order = [letters.index(letter) for letter in wanted]
    return node if order == sorted(order) else add_call(graph, aten.permute.default, (node, order), origin)
