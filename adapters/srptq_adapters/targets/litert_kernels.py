"""What LiteRT computes in one kernel: an operation, and the activation behind it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from onnx import NodeProto

from srptq_adapters.targets.litert_file import Encoding, Operation
from srptq_adapters.targets.litert_graph import LiteRtGraph, channels_last_shape

NONE, RELU, RELU6 = 0, 1, 3
"""Members of LiteRT's ActivationFunctionType."""
MAXIMUM, MINIMUM = Operation("MAXIMUM", "MaximumMinimumOptions"), Operation("MINIMUM", "MaximumMinimumOptions")
ENDS: Mapping[tuple[float | None, float | None], int] = {(0.0, None): RELU, (0.0, 6.0): RELU6}


@dataclass(frozen=True)
class Kernel:
    """A kernel's result: the value behind the activation, and the ends between which it lies."""

    value: str
    low: float | None = None
    high: float | None = None

    @property
    def activation(self) -> int:
        """The activation that LiteRT computes with the operation."""
        return ENDS.get((self.low, self.high), NONE)

    def cuts(self, encoding: Encoding | None) -> Sequence[tuple[Operation, float]]:
        """Return the operations that cut what neither the activation nor the integers cut."""
        if self.activation != NONE:
            return ()
        lowest, highest = (None, None) if encoding is None else (encoding.lowest, encoding.highest)
        cuts: list[tuple[Operation, float]] = []
        if self.low is not None and (lowest is None or lowest < self.low):
            cuts.append((MAXIMUM, self.low))
        if self.high is not None and (highest is None or highest > self.high):
            cuts.append((MINIMUM, self.high))
        return cuts


def kernel_of(graph: LiteRtGraph, node: NodeProto) -> Kernel:
    """Return the kernel that begins with a node."""
    value = node.output[0]
    readers = graph.onnx.readers[value]
    ends = clip_ends(graph, readers[0]) if len(readers) == 1 else None
    if ends is None:
        return Kernel(value)
    return Kernel(readers[0].output[0], *ends)


def clip_ends(graph: LiteRtGraph, node: NodeProto) -> tuple[float | None, float | None] | None:
    """Return between which ends a node cuts values, or None if it does something else."""
    if node.op_type == "Relu":
        return 0.0, None
    if node.op_type != "Clip":
        return None
    ends = graph.input(node, 1), graph.input(node, 2)
    if any(name and end is None for name, end in zip(node.input[1:], ends, strict=False)):
        raise graph.refusal(node, "with computed ends")
    low, high = (None if end is None else float(end.item()) for end in ends)
    return low, high


def compute(
    graph: LiteRtGraph, kernel: Kernel, operation: Operation, inputs: Sequence[int], encoding: Encoding | None
) -> None:
    """Add an operation with its activation, which its options name already, and what else cuts its values."""
    shape = channels_last_shape(graph.shape(kernel.value))
    for cut, end in kernel.cuts(encoding):
        tensor = graph.inner(operation, inputs, shape, encoding)
        operation, inputs = cut, [tensor, graph.scalar(end, encoding)]
    graph.add(operation, inputs, kernel.value, encoding)
    graph.done.add(kernel.value)
