"""Which operations besides layers run in integers, for one network, one target and one recipe."""

from collections.abc import Iterator

from torch import fx

from srptq_plugin.graph.fusion import ANY, FusionMatcher
from srptq_plugin.graph.network import (
    ELEMENTWISE,
    INPUT,
    MOVEMENT,
    OUTPUT,
    TRANSPOSED,
    is_pooled,
    tensor_arguments,
)
from srptq_plugin.planning.float_reasons import FloatReasons


class IntegerOperations:
    """Finds the operations that run in integers, by what the target computes and what reads the results."""

    def __init__(self, reasons: FloatReasons, fusions: FusionMatcher) -> None:
        self.network, self.rules, self.choices = reasons.network, reasons.rules, reasons.choices
        self.full, self.everywhere = reasons.full, reasons.everywhere
        self.fusions, self.planned = fusions, fusions.planned
        self.feeding: set[fx.Node] = set()
        self._find_feeding()

    def of(self, ops: frozenset[str]) -> Iterator[fx.Node]:
        """Yield the operations of these kinds, except layers, that run in integers: none under `convs`."""
        return (node for node in self.network.ops if self._is_other(node, ops))

    def is_named(self, node: fx.Node, ops: frozenset[str]) -> bool:
        """Tell whether an operation is one of these, by its name or by a narrower one."""
        return not ops.isdisjoint((self.network.ops[node], self.network.kind(node)))

    def joins(self, node: fx.Node) -> bool:
        """Tell whether an operation computes whole feature maps from others, or moves them to readers of integers."""
        op = self.network.ops[node]
        if op in MOVEMENT:
            return all(self._reads_integers(user) for user, _ in self.network.edges_out(node))
        # A constant that is added, or a factor for each channel, would need integers of its own.
        kind = self.network.kind(node)
        is_whole = len(self.network.edges_in(node)) > 1 or op not in ELEMENTWISE or kind == "scale"
        is_large = kind == "global_mean" or not is_pooled(node)
        return is_whole and is_large and self.choices.stages.of(node) != "tail" and node in self.network.varying

    def is_read(self, node: fx.Node) -> bool:
        """Tell whether the integers of an operation, if its kernel rounds, serve another integer kernel.

        A matrix product saves time in any case. The mean of integers that are there for another reader costs less than
        their conversion to floats.
        """
        averages = self.network.kind(node) == "global_mean" and tensor_arguments(node)[0] in self.feeding
        saves = averages or self.network.ops[node] == "matmul"
        return saves or node in self.feeding or not self.is_named(node, self.rules.outputs)

    def needs_no_kernel(self, node: fx.Node, op: str) -> bool:
        """Tell whether an operation keeps integers integers: it moves them, or a kernel of another one computes it."""
        # An activation that fuses behind anything counts as fused also if a second reader prevents it.
        fused_anywhere = any(fusion.op == op and fusion.behind == ANY for fusion in self.rules.fusions)
        fused = fused_anywhere or (op not in self.rules.inputs and self.fusions.is_fused(node))
        return fused or op in MOVEMENT or op in (INPUT, OUTPUT)

    def _is_other(self, node: fx.Node, ops: frozenset[str]) -> bool:
        op = self.network.ops[node]
        is_named = op not in ("conv", TRANSPOSED) and self.is_named(node, ops)
        quantizes = self.full and is_named and self.joins(node) and self.choices.quantizes(node)
        return quantizes and (self.everywhere or self.is_read(node))

    def _reads_integers(self, node: fx.Node) -> bool:
        # A part of a split is no operation of its own to a target.
        op = self.network.ops[node]
        moves = op in MOVEMENT and (op == "getitem" or op in self.rules.inputs) and self.joins(node)
        return moves or node in self.planned or self._is_other(node, self.rules.inputs)

    def _find_feeding(self) -> None:
        """Collect what an integer kernel reads, or the network returns, from the last operation to the first."""
        for node, op in reversed(self.network.ops.items()):
            readers = [user for user, _ in self.network.edges_out(self.fusions.last(node))]
            if op == OUTPUT or any(self._passes_on(user) or self._reads_integers(user) for user in readers):
                self.feeding.add(node)

    def _passes_on(self, node: fx.Node) -> bool:
        return node in self.feeding and self.needs_no_kernel(node, self.network.ops[node])
