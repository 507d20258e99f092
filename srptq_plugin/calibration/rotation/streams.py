"""Streams: feature maps that only linear operations write and read, such as the sums along residual blocks.

Convolutions write a stream and convolutions read it. Between them are sums, concats, resizing and pixel shuffles, which
treat all channels alike. So the channels may be replaced by linear combinations of them, if the weights that write and
read them are changed to match.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from srptq_plugin.calibration.rotation.cells import Cells
from srptq_plugin.graph.network import TRANSPOSED, Network, tensor_arguments

CONVOLUTIONS = frozenset({"conv", TRANSPOSED})
ALIKE = frozenset({"nearest", "interpolate", "identity"})
"""Operations of one map that compute the same linear function of every channel."""
PAIR = 2


@dataclass(frozen=True)
class Segment:
    """Adjacent channels of a feature map: a stream, or channels that stay as they are.

    Attributes:
        channels: How many channels of the map these are.
        stream: The number of the stream, or None for channels that stay as they are.
        copies: How many adjacent channels of the map belong to one channel of the stream. A pixel shuffle makes one
            channel from them.
    """

    channels: int
    stream: int | None = None
    copies: int = 1


Layout = tuple[Segment, ...]
Matrices = Sequence[Tensor]
"""A matrix for each stream."""
Read = Sequence[list[int]]
"""The cells of each map that an operation reads."""


class Streams:
    """The streams of a network.

    Attributes:
        names: For each stream, the first convolution that writes it.
        sizes: For each stream, the number of its channels.
    """

    def __init__(self, network: Network) -> None:
        self.network = network
        self.cells = Cells()
        self._maps: dict[fx.Node, list[int]] = {}
        names = [parameter[0] for node in network.ops if (parameter := self._weight(node)) is not None]
        self._shared = {name for name, count in Counter(names).items() if count > 1}
        for node in network.ops:
            if node in network.varying:
                self._enter(node)
        writers = {node: self.cells.root(self._maps[node][0])[0] for node in self.convolutions}
        fixed, firsts = self.cells.fixed_roots(), dict[int, fx.Node]()
        for node, cell in writers.items():
            if cell not in fixed:
                firsts.setdefault(cell, node)
        self._numbers = {cell: number for number, cell in enumerate(firsts)}
        self.names = [network.name(node) for node in firsts.values()]
        self.sizes = [self.cells.channels[cell] for cell in firsts]

    @property
    def convolutions(self) -> list[fx.Node]:
        """The convolutions whose inputs and outputs have layouts."""
        return [node for node, op in self.network.ops.items() if op in CONVOLUTIONS and node in self._maps]

    def layout(self, node: fx.Node) -> Layout:
        """Return the segments of a feature map. A map without any has no stream."""
        return tuple(self._segment(cell) for cell in self._maps.get(node, ()))

    def rotate(self, matrices: Matrices) -> None:
        """Change the weights and biases in place, so that every stream becomes its matrix times what it was."""
        for conv in self.convolutions:
            weight, bias = self._weight(conv), self.network.parameter(conv, 2)
            if weight is not None:
                rotated = self.rotated(conv, weight[1], None if bias is None else bias[1], matrices)
                weight[1].copy_(rotated[0])
                if bias is not None and rotated[1] is not None:
                    bias[1].copy_(rotated[1])

    def rotated(
        self, conv: fx.Node, weight: Tensor, bias: Tensor | None, matrices: Matrices
    ) -> tuple[Tensor, Tensor | None]:
        """Return the weight and bias of a convolution that reads and writes rotated streams, in double precision."""
        written, read = self.layouts(conv)
        outputs, inputs = (1, 0) if conv in self.network.transposed else (0, 1)
        weight = combine(weight.double(), outputs, written, matrices)
        weight = combine(weight, inputs, read, [torch.linalg.inv(matrix).T for matrix in matrices])
        return weight, None if bias is None else combine(bias.double(), 0, written, matrices)

    def layouts(self, conv: fx.Node) -> tuple[Layout, Layout]:
        """Return the layouts of the maps that a convolution writes and reads."""
        return self.layout(conv), self.layout(tensor_arguments(conv)[0])

    def has_own_weight(self, conv: fx.Node) -> bool:
        """Tell whether a convolution has a weight as a parameter that no other convolution reads."""
        weight = self._weight(conv)
        return weight is not None and weight[0] not in self._shared

    def _weight(self, node: fx.Node) -> tuple[str, Tensor] | None:
        return self.network.parameter(node, 1) if self.network.ops[node] in CONVOLUTIONS else None

    def _segment(self, cell: int) -> Segment:
        root, copies = self.cells.root(cell)
        return Segment(self.cells.channels[cell], self._numbers.get(root), copies)

    def _enter(self, node: fx.Node) -> None:
        """Give a node's feature map its cells. Cells are fixed by operations that treat channels differently."""
        op, network = self.network.ops[node], self.network
        read = [self._maps[source] for _, source in network.edges_in(node) if source in self._maps]
        made = RULES[op](self, node, read) if op in RULES and read else None
        if made is None:
            for cells in read:
                self.cells.fix(cells)
            made = [self.cells.new(_count(node))]
            self.cells.fix(made)
        self._maps[node] = made


def _convolution(streams: Streams, conv: fx.Node, read: Read) -> list[int] | None:
    dense = streams.has_own_weight(conv) and streams.network.groups(conv) == 1
    alone = len(read) == 1 and not streams.network.is_mean_shift(conv)
    return [streams.cells.new(_count(conv))] if dense and alone else None


def _sum(streams: Streams, node: fx.Node, read: Read) -> list[int] | None:
    if len(read) != PAIR or len(node.args) != PAIR or not streams.cells.alike(*read):
        return None
    for first, second in zip(*read, strict=True):
        streams.cells.join(first, second)
    return read[0]


def _scale(streams: Streams, node: fx.Node, read: Read) -> list[int] | None:
    return read[0] if streams.network.kind(node) == "scale" and len(read) == 1 else None


def _same(_streams: Streams, _node: fx.Node, read: Read) -> list[int] | None:
    return read[0] if len(read) == 1 else None


def _concat(_streams: Streams, node: fx.Node, read: Read) -> list[int] | None:
    return [cell for cells in read for cell in cells] if node.args[1:] == (1,) else None


def _shuffle(streams: Streams, node: fx.Node, read: Read) -> list[int] | None:
    if len(read) != 1 or len(read[0]) != 1:
        return None
    made = streams.cells.new(_count(node))
    streams.cells.gather(read[0][0], made)
    return [made]


Rule = Callable[[Streams, fx.Node, Read], list[int] | None]
RULES: Mapping[str, Rule] = {
    **dict.fromkeys(CONVOLUTIONS, _convolution),
    **dict.fromkeys(ALIKE, _same),
    "add": _sum,
    "sub": _sum,
    "mul": _scale,
    "cat": _concat,
    "pixel_shuffle": _shuffle,
}
"""The cells of an operation's output. An operation without a rule fixes all that it reads and writes."""


def streams_of(layout: Layout) -> frozenset[int]:
    """Return the streams in a layout."""
    return frozenset(segment.stream for segment in layout if segment.stream is not None)


def combine(values: Tensor, axis: int, layout: Layout, matrices: Matrices) -> Tensor:
    """Replace the channels along an axis by their combinations: each stream becomes its matrix times what it was."""
    if not streams_of(layout):
        return values
    parts = values.movedim(axis, 0).split([segment.channels for segment in layout])
    combined = [_combine(part, segment, matrices) for part, segment in zip(parts, layout, strict=True)]
    return torch.cat(combined).movedim(0, axis)


def _combine(part: Tensor, segment: Segment, matrices: Matrices) -> Tensor:
    if segment.stream is None:
        return part
    matrix = matrices[segment.stream]
    return (matrix @ part.reshape(len(matrix), -1)).reshape(part.shape)


def _count(node: fx.Node) -> int:
    shape = getattr(node.meta.get("val"), "shape", ())
    return shape[1] if len(shape) > 1 and isinstance(shape[1], int) else 1
