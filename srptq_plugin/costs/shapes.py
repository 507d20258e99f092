"""Shapes of all tensors of a network at one image size, and which tensors share memory. No value is computed."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, empty, fx
from torch._subclasses import FakeTensorMode
from torch.multiprocessing.reductions import StorageWeakRef

from srptq_plugin.errors import SrptqError
from srptq_plugin.graph.network import GUARDS, OUTPUT, Network
from srptq_plugin.graph.types import Size


@dataclass(frozen=True)
class Shape:
    """The shape of a tensor, and the node that owns its memory."""

    sides: tuple[int, ...]
    root: fx.Node
    """The node itself, or the tensor that it is a view of."""

    @property
    def elements(self) -> int:
        """The number of elements."""
        return math.prod(self.sides)


def trace_shapes(network: Network, size: Size) -> Mapping[fx.Node, Shape]:
    """Run the network on fake tensors and return the shape of every node, parameters included.

    >>> from torch import nn
    >>> from srptq_plugin.graph.export import export_network, graph_of
    >>> network = Network(graph_of(export_network(nn.PixelShuffle(1))))
    >>> [shape.sides for shape in trace_shapes(network, (1, 3, 1080, 1920)).values()]
    [(1, 3, 1080, 1920), (1, 3, 1080, 1920)]
    """
    # Views are recognized by the address of their storage. Garbage collection would free addresses for other tensors.
    tracer = _Tracer(network.module, garbage_collect_values=False)
    try:
        with FakeTensorMode(allow_non_fake_inputs=True):
            tracer.run(empty(size))
    except Exception as error:
        raise SrptqError(_refusal(size, error)) from error
    return tracer.shapes


class _Tracer(fx.Interpreter):
    """An interpreter that notes the shape and the storage of every tensor."""

    def __init__(self, module: fx.GraphModule, **options: Any) -> None:
        super().__init__(module, **options)
        self.shapes: dict[fx.Node, Shape] = {}
        self._roots: dict[int, fx.Node] = {}

    def run_node(self, n: fx.Node) -> Any:
        # Guards check values, which fake tensors do not have.
        if n.op == "call_module" and n.target == GUARDS:
            return None
        value = super().run_node(n)
        if isinstance(value, Tensor) and n.op != OUTPUT:
            memory = StorageWeakRef(value.untyped_storage()).cdata
            self.shapes[n] = Shape(tuple(map(int, value.shape)), self._roots.setdefault(memory, n))
        return value


def _refusal(size: Size, error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    cause = lines[0][:200] if lines else type(error).__name__
    return f"input size {'x'.join(map(str, size))}: the network does not run at it ({cause}); give another"
