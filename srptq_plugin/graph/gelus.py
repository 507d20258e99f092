"""GELUs that were written as x / 2 * (1 + erf(x / sqrt(2))), joined to one operation again."""

import math
from typing import Any

from torch import fx

from srptq_plugin.graph.program_edits import add_call, aten

PRECISION = 1e-4
"""The relative error of constants in a GELU. Half precision is enough."""


def join_gelus(graph: fx.Graph) -> None:
    """Replace every erf, with the products and the sum around it, by the GELU that they are, in place."""
    for erf in graph.find_nodes(op="call_function", target=aten.erf.default):
        image = _scaled(erf.args[0], math.sqrt(0.5))
        gate = _only_user(erf)
        if image is None or gate is None or gate.target is not aten.add.Tensor or not _is_number(gate.args[1], 1):
            continue
        product = _find_product(gate, image)
        if product is not None:
            with graph.inserting_before(product):
                gelu = add_call(graph, aten.gelu.default, (image,), product)
            product.replace_all_uses_with(gelu)
            graph.erase_node(product)


def _find_product(gate: fx.Node, image: fx.Node) -> fx.Node | None:
    """Return the product of a gate, its image and one half, in whatever order they are multiplied."""
    product, number, has_image = gate, 1.0, False
    while not (has_image and _is_number(number, 0.5)):
        before, product = product, _only_user(product)
        if product is None or product.target is not aten.mul.Tensor:
            return None
        other = product.args[1] if product.args[0] is before else product.args[0]
        if isinstance(other, int | float):
            number *= other
        elif not has_image and other is image:
            has_image = True
        elif not has_image and _scaled(other, 0.5) is image:
            has_image, number = True, number / 2
        else:
            return None
    return product


def _scaled(node: Any, factor: float) -> fx.Node | None:
    """Return the map that a node multiplies by a factor, or None if it does anything else."""
    if not isinstance(node, fx.Node) or len(node.args) != 2 or not isinstance(node.args[0], fx.Node):  # noqa: PLR2004
        return None
    number = node.args[1]
    divides = node.target is aten.div.Tensor and _is_number(number, 1 / factor)
    multiplies = node.target is aten.mul.Tensor and _is_number(number, factor)
    return node.args[0] if divides or multiplies else None


def _is_number(value: Any, expected: float) -> bool:
    return isinstance(value, int | float) and math.isclose(value, expected, rel_tol=PRECISION)


def _only_user(node: fx.Node) -> fx.Node | None:
    users = list(node.users)
    return users[0] if len(users) == 1 else None
