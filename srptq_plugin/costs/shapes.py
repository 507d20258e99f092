"""The shape of every tensor of a network at an image size, and which tensors share memory; nothing is computed."""

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
    """A tensor's sides, and the node whose memory it looks at: itself, or what it is a view of."""

    sides: tuple[int, ...]
    root: fx.Node

    @property
    def elements(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.sides)


def shapes_of(network: Network, size: Size) -> Mapping[fx.Node, Shape]:
    """By node, parameters among them; torch says what is a view.

    >>> from torch import nn
    >>> from srptq_plugin.graph.export import export_network, graph_of
    >>> network = Network(graph_of(export_network(nn.PixelShuffle(1))))
    >>> [shape.sides for shape in shapes_of(network, (1, 3, 1080, 1920)).values()]
    [(1, 3, 1080, 1920), (1, 3, 1080, 1920)]
    """
    tracer = _Tracer(network.module, garbage_collect_values=False)
    try:
        with FakeTensorMode(allow_non_fake_inputs=True):
            tracer.run(empty(size))
    except Exception as error:
        raise SrptqError(_refusal(size, error)) from error
    return tracer.shapes


class _Tracer(fx.Interpreter):
    """Runs tensors that have a shape and no values."""

    def __init__(self, module: fx.GraphModule, **options: Any) -> None:
        super().__init__(module, **options)
        self.shapes: dict[fx.Node, Shape] = {}
        self._roots: dict[int, fx.Node] = {}

    def run_node(self, n: fx.Node) -> Any:
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
