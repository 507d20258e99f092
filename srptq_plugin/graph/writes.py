"""Operations in place, replaced by ones that make a new tensor.

A quantizer between a tensor and its reader hides later changes of the tensor. A gradient needs the old tensor if
another operation keeps it. `x[:, :8] = conv(x[:, :8])`, as in partial convolutions, becomes a concat of the
convolution's output and the other channels.
"""

import operator
import sys
from typing import Any

import torch
from torch import fx
from torch._ops import OpOverload

from srptq_plugin.graph.program_edits import add_call, aten, is_mutable, iter_memory


def make_writes_ordinary(graph: fx.Graph) -> None:
    """Rewrite a graph in place. A write that an older view of the same memory shows to later readers stays."""
    _drop_full_slices(graph)
    order = {node: number for number, node in enumerate(graph.nodes)}
    for node in list(graph.nodes):
        target: Any = node.target
        if is_mutable(node) and (ordinary := _ordinary(target)) is not None:
            _make_ordinary(graph, node, ordinary, order)


def _drop_full_slices(graph: fx.Graph) -> None:
    """Let the readers of a slice that leaves nothing out read its source, in place."""
    for node in graph.find_nodes(op="call_function", target=aten.slice.Tensor):
        source, _, start, end, step = _slice(node)
        if (start, end, step) == (None, None, 1):
            node.replace_all_uses_with(source)
            graph.erase_node(node)


def _ordinary(operation: OpOverload) -> OpOverload | None:
    """Return the operation that makes a new tensor of what another one changes in place.

    >>> str(_ordinary(aten.relu_.default)), _ordinary(aten.relu.default)
    ('aten.relu.default', None)
    """
    namespace, _, name = operation.name().partition("::")
    function, _, overload = name.partition(".")
    packet = getattr(getattr(torch.ops, namespace), function.removesuffix("_"), None)
    return getattr(packet, overload or "default", None) if function.endswith("_") else None


def _make_ordinary(graph: fx.Graph, write: fx.Node, ordinary: OpOverload, order: dict[fx.Node, int]) -> None:
    target: Any = write.args[0]
    is_part = target.target is aten.slice.Tensor and _slice(target)[4] == 1
    base = target.args[0] if is_part else target
    if _is_shown_later(write, {base, target}, order):
        return
    with graph.inserting_before(write):
        changed = _value(graph, write, ordinary)
        whole = _put_into(graph, target, changed) if is_part else changed

    def is_later(user: fx.Node) -> bool:
        return order.get(user, -1) > order[write]

    for old, new in ((write, changed), (target, changed), (base, whole)):
        old.replace_all_uses_with(new, delete_user_cb=is_later)
    graph.erase_node(write)


def _is_shown_later(write: fx.Node, replaced: set[fx.Node], order: dict[fx.Node, int]) -> bool:
    """Tell whether the memory that is written belongs to the caller, or to another tensor that is read later."""
    memory = list(iter_memory(write.args[0]))
    if memory[-1].op == "placeholder":
        return True
    older = (node for node, number in order.items() if number < order[write] and node not in replaced)
    return any(
        any(order.get(user, -1) > order[write] for user in node.users) and _overlap(memory, list(iter_memory(node)))
        for node in older
    )


def _overlap(memory: list[fx.Node], other: list[fx.Node]) -> bool:
    """Tell whether two tensors may share memory. Each is given with the tensors that it is a part of."""
    parts = {part.args[0]: part.args[1] for part in memory if part.target is operator.getitem}
    pairs = ((parts.get(part.args[0]), part.args[1]) for part in other if part.target is operator.getitem)
    return memory[-1] is other[-1] and all(index in (None, number) for index, number in pairs)


def _value(graph: fx.Graph, write: fx.Node, ordinary: OpOverload) -> fx.Node:
    """Return a new tensor with the values that are written."""
    if write.target is aten.copy_.default:
        target, source = (argument.meta["val"] for argument in write.all_input_nodes[:2])
        if (source.shape, source.dtype) == (target.shape, target.dtype):
            return write.all_input_nodes[1]
    return add_call(graph, ordinary, write.args, write, write.kwargs)


def _put_into(graph: fx.Graph, part: fx.Node, changed: fx.Node) -> fx.Node:
    """Return the concat of a new part, and of what lies before and behind it."""
    source, axis, start, end, _ = _slice(part)
    before = [] if start is None else [add_call(graph, aten.slice.Tensor, (source, axis, 0, start), part)]
    behind = [] if end is None else [add_call(graph, aten.slice.Tensor, (source, axis, end, sys.maxsize), part)]
    return add_call(graph, aten.cat.default, ([*before, changed, *behind], axis), part)


def _slice(node: fx.Node) -> tuple[Any, ...]:
    """Return the source, the axis, the start, the end and the step of a slice. None starts or ends with the source."""
    defaults = (None, 0, None, None, 1)
    arguments: tuple[Any, ...] = (*node.args, *defaults[len(node.args) :])
    source, axis, start, end, step = arguments
    length: Any = source.meta["val"].shape[axis]
    is_open = isinstance(end, int) and (end == sys.maxsize or (isinstance(length, int) and end >= length))
    return source, axis, start or None, None if is_open else end, step
