"""Tensors of a program that no image changes: parameters, and tensors computed from them or written out in forward."""

from dataclasses import dataclass, field

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram

from srptq_plugin.graph.operation_names import canonical_op
from srptq_plugin.graph.program_edits import is_mutable, iter_memory

CREATORS = frozenset({"arange", "eye", "full", "linspace", "ones", "scalar_tensor", "zeros"})
"""Operations that make the same tensor in every run."""


@dataclass
class Constants:
    """The tensors of a program that no image changes.

    Attributes:
        values: The value of each tensor, after all operations in place.
        order: The place of each node in the graph.
        written: For each tensor that is changed in place, the place of the last change.
    """

    values: dict[fx.Node, Tensor] = field(default_factory=dict[fx.Node, Tensor])
    order: dict[fx.Node, int] = field(default_factory=dict[fx.Node, int])
    written: dict[fx.Node, int] = field(default_factory=dict[fx.Node, int])

    @classmethod
    def of(cls, program: ExportedProgram) -> "Constants":
        """Compute the constants of a program."""
        changed = set[fx.Node]()
        while True:
            constants = cls(_given(program), {node: n for n, node in enumerate(program.graph.nodes)})
            before = len(changed)
            with torch.no_grad():
                for node in program.graph.nodes:
                    constants._compute(node, changed)
            if len(changed) == before:
                return constants

    def value(self, node: fx.Node, reader: fx.Node) -> Tensor | None:
        """Return what a reader sees of a tensor, or None if the image changes it, or something in place later on."""
        last = max((self.written.get(part, -1) for part in iter_memory(node)), default=-1)
        return self.values.get(node) if last < self.order[reader] else None

    def drop_unread(self, graph: fx.Graph) -> None:
        """Erase computed constants that nothing else reads any more, with their operations in place."""
        live, written = set[fx.Node](), set[fx.Node]()
        for node in reversed(graph.nodes):
            # A change in place counts if its memory is read later on, even if nothing reads its own result.
            if node in live or node not in self.values or (is_mutable(node) and _root(node) in written):
                live |= {node, *node.all_input_nodes}
                written |= set(map(_root, node.all_input_nodes))
        for node in reversed(list(self.values)):
            if node.op == "call_function" and node not in live:
                graph.erase_node(node)

    def _compute(self, node: fx.Node, changed: set[fx.Node]) -> None:
        """Add the value of a node if it is constant. Add the memory that others change to `changed`."""
        memory = set(iter_memory(node.args[0])) if is_mutable(node) else set[fx.Node]()
        if not self._is_constant(node, changed) or any(part.op == "placeholder" for part in memory):
            changed |= memory
            return
        arguments = fx.map_arg((node.args, node.kwargs), self.values.__getitem__)
        self.values[node] = node.target(*arguments[0], **arguments[1])  # type: ignore[operator]
        self.written |= dict.fromkeys(memory, self.order[node])

    def _is_constant(self, node: fx.Node, changed: set[fx.Node]) -> bool:
        if node.op != "call_function" or not changed.isdisjoint(iter_memory(node)):
            return False
        read = node.all_input_nodes
        return self.values.keys() >= set(read) if read else canonical_op(str(node.target)) in CREATORS


def _given(program: ExportedProgram) -> dict[fx.Node, Tensor]:
    """Return the values of parameters, buffers and tensors that the tracer lifted, by placeholder."""
    signature = program.graph_signature
    stored = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    values = {name: program.state_dict[target] for name, target in stored.items() if target in program.state_dict}
    constants = {**signature.inputs_to_lifted_tensor_constants, **signature.inputs_to_buffers}
    values |= {name: program.constants[target] for name, target in constants.items() if target in program.constants}
    nodes = (node for node in program.graph.nodes if node.op == "placeholder" and node.name in values)
    return {node: values[node.name].clone() for node in nodes}


def _root(node: fx.Node) -> fx.Node:
    return list(iter_memory(node))[-1]
