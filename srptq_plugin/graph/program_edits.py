"""Edits of a traced program's graph."""

import operator
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch._ops import OpOverload

aten: Any = torch.ops.aten


def add_call(graph: fx.Graph, target: Any, args: Sequence[Any], origin: fx.Node, kwargs: Any = None) -> fx.Node:
    """Append a call that belongs to the module of another node, with the shape that it gives."""
    call = graph.call_function(target, tuple(args), dict(kwargs or {}))
    call.meta = dict(origin.meta)
    values = fx.map_arg((call.args, call.kwargs), lambda node: node.meta["val"])
    result: Tensor = target(*values[0], **values[1])
    call.meta["val"] = result
    return call


def schema_of(operation: Any) -> Any:
    """Return what an operation declares of its arguments and results."""
    return operation._schema  # noqa: SLF001 - torch tells in no other way


def is_mutable(node: fx.Node) -> bool:
    """Tell whether an operation changes an argument in place."""
    return isinstance(node.target, OpOverload) and schema_of(node.target).is_mutable


def is_view(node: fx.Node) -> bool:
    """Tell whether an operation returns a part of its argument's memory."""
    if node.target is operator.getitem:
        return True
    if not isinstance(node.target, OpOverload):
        return False
    aliases = (result.alias_info for result in schema_of(node.target).returns)
    return any(alias is not None and not alias.is_write for alias in aliases)


def iter_memory(node: Any) -> Iterator[fx.Node]:
    """Yield a tensor, and the tensors that it shares memory with, as a view or by an operation in place."""
    while isinstance(node, fx.Node):
        yield node
        node = node.args[0] if is_view(node) or is_mutable(node) else None
