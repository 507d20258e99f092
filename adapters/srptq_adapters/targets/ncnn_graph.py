"""A float ONNX network on its way to ncnn's layers."""

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
from onnx import ModelProto, NodeProto

from srptq_adapters.targets.ncnn_file import INPUT, OUTPUT, PART, Layer, Numbers, Value, floats
from srptq_adapters.targets.ncnn_sizes import Size, Sizes, evaluate, measures, shape
from srptq_adapters.targets.onnx_graph import OnnxGraph, attribute
from srptq_plugin.deploy.onnx_export import OnnxNetwork, read_scopes
from srptq_plugin.errors import SrptqError, short

MOST_DIMENSIONS = 4
"""Dimensions of a blob. The batch is none of them."""


class NcnnGraph:
    """The layers translated so far, and the blobs that hold the values of the ONNX file.

    Attributes:
        onnx: The file, with its producers, readers and constants.
        keys: The key of each operation in the quant table, by the value that it computes.
        layers: The layers, in the order of the file.
        ranks: The number of dimensions of each value, with the batch.
        sizes: The values that are sizes.
        done: Values that the layer of an earlier node computes.
    """

    def __init__(self, model: ModelProto) -> None:
        self.onnx = OnnxGraph(model.graph)
        self.keys = {node.output[0]: key for key, node in OnnxNetwork(model).nodes.items()}
        image = model.graph.input[0]
        self.ranks = {image.name: len(image.type.tensor_type.shape.dim)}
        self.layers = [Layer("Input", INPUT, [], [INPUT])]
        self.sizes: dict[str, Sizes] = {}
        self.done: set[str] = set()
        self._blobs = {image.name: INPUT}
        self._constants: dict[tuple[str, int], str] = {}
        self._names: Counter[str] = Counter([INPUT, OUTPUT])

    def constant(self, value: str) -> Numbers | None:
        """Return the values of a constant, or None for a computed value."""
        return self.onnx.constant(value) if value else None

    def input(self, node: NodeProto, index: int) -> Numbers | None:
        """Return the constant that a node reads, or None if it reads none there."""
        return self.constant(node.input[index]) if len(node.input) > index else None

    def numbers(self, node: NodeProto, index: int) -> list[int] | None:
        """Return the integers that a node reads, or None if it reads none there. Computed ones are refused."""
        if len(node.input) <= index or not node.input[index]:
            return None
        sizes = self.sizes_at(node, index)
        if not all(isinstance(size, int) for size in sizes):
            raise self.refusal(node, "with sizes that follow the image")
        return [size for size in sizes if isinstance(size, int)]

    def sizes_at(self, node: NodeProto, index: int) -> Sizes:
        """Return the sizes that a node reads."""
        sizes = self._sizes(node.input[index]) if len(node.input) > index else None
        if sizes is None:
            raise self.refusal(node, "with sizes that follow the values of a tensor")
        return sizes

    def _sizes(self, value: str) -> Sizes | None:
        if value in self.sizes:
            return self.sizes[value]
        constant = self.constant(value)
        if constant is None or not np.issubdtype(constant.dtype, np.integer):
            return None
        return tuple(int(number) for number in constant.reshape(-1))

    def compute_sizes(self, node: NodeProto) -> bool:
        """Compute a node that reads nothing but sizes. Return whether it is one."""
        if node.op_type == "Shape":
            self.sizes[node.output[0]] = shape(node, self.rank(node.input[0]))
            return True
        inputs = [self._sizes(value) for value in node.input if value]
        known = [sizes for sizes in inputs if sizes is not None]
        result = evaluate(node, known) if inputs and len(known) == len(inputs) else None
        if result is not None:
            self.sizes[node.output[0]] = result
        return result is not None

    def rank(self, value: str) -> int:
        """Return the number of dimensions of a value, with the batch."""
        constant = self.constant(value)
        return self.ranks[value] if constant is None else constant.ndim

    def axis(self, node: NodeProto, axis: int, rank: int | None = None) -> int:
        """Return the axis of a blob for an axis of a node's first input. The batch is refused."""
        axis %= rank or self.rank(node.input[0])
        if axis == 0:
            raise self.refusal(node, "along the batch")
        return axis - 1

    def blob(self, value: str, rank: int = 0) -> str:
        """Return the blob that holds a value. Constants get a layer of their own, with so many dimensions at least."""
        constant = self.constant(value)
        if constant is None:
            return self._blobs[value]
        if (value, rank) not in self._constants:
            self._constants[value, rank] = self._constant_layer(constant, value, rank)
        return self._constants[value, rank]

    def _constant_layer(self, values: Numbers, name: str, rank: int) -> str:
        """Add a layer that holds a constant. The batch, which is 1, is dropped."""
        batch, *dimensions = (*(1,) * (rank - values.ndim), *values.shape)
        if batch != 1 or not 0 < len(dimensions) < MOST_DIMENSIONS:
            raise SrptqError(
                f"constant {short(name)!r}: ncnn stores 1 to 3 dimensions besides a batch of 1, not "
                f"{list(values.shape)}; replace it, or give another target"
            )
        params: dict[int, Value] = dict(zip((2, 1, 0)[-len(dimensions) :], dimensions, strict=True))
        blob = self.unique(name)
        self.layers.append(Layer("MemoryData", blob, [], [blob], params, [floats(values)]))
        return blob

    def add(
        self,
        kind: str,
        node: NodeProto,
        values: Sequence[str],
        params: dict[int, Value] | None = None,
        weights: Sequence[bytes] = (),
    ) -> Layer:
        """Add a layer for a node. It reads the blobs of these values, and its outputs are the node's."""
        if any(value in self.sizes for value in values):
            raise self.refusal(node, "with the image's size")
        rank = max(map(self.rank, values))
        return self.append(kind, [self.blob(value, rank) for value in values], node, params, weights)

    def append(
        self,
        kind: str,
        blobs: Sequence[str],
        node: NodeProto,
        params: dict[int, Value] | None = None,
        weights: Sequence[bytes] = (),
    ) -> Layer:
        """Add a layer that reads these blobs, for a node."""
        outputs = [self.unique(value) for value in node.output if value]
        self._blobs |= dict(zip(node.output, outputs, strict=False))
        rank = self.rank(node.input[0])
        self.ranks |= dict.fromkeys(node.output, rank)
        layer = Layer(kind, self.unique(kind.lower()), list(blobs), outputs, params or {}, list(weights))
        self.layers.append(layer)
        return layer

    def inner(self, kind: str, blobs: Sequence[str], outputs: int = 1, params: dict[int, Value] | None = None) -> Layer:
        """Add a layer that computes no value of the ONNX file."""
        name = self.unique(kind.lower())
        blobs_out = [f"{name}{PART}{number}" for number in range(outputs)]
        layer = Layer(kind, name, list(blobs), blobs_out, params or {})
        self.layers.append(layer)
        return layer

    def alias(self, node: NodeProto) -> None:
        """Let a node's output be its input."""
        self._blobs[node.output[0]] = self.blob(node.input[0])
        self.ranks[node.output[0]] = self.rank(node.input[0])

    def measured(self, sizes: Sequence[Size], first: str) -> list[str]:
        """Return the values that a layer has to read to know these sizes, the first included."""
        names = {measure.value for size in sizes for measure in measures(size) if measure.axis}
        return [first, *sorted(names - {first})]

    def unique(self, name: str) -> str:
        """Return a name without spaces that no other layer or blob has."""
        name = re.sub(r"[^\w.]+", "_", name)[-200:] or "_"
        self._names[name] += 1
        return name if self._names[name] == 1 else self.unique(f"{name}_{self._names[name] - 1}")

    def finish(self, value: str) -> list[Layer]:
        """Return all layers, with the network's output as the last one's."""
        self.layers.append(Layer("Noop", OUTPUT, [self.blob(value)], [OUTPUT]))
        return self.layers

    def refusal(self, node: NodeProto, detail: str = "") -> SrptqError:
        """Return the error for a node that ncnn does not compute, or not with these parameters."""
        what = " ".join(filter(None, (node.op_type, detail)))
        return SrptqError(
            f"{self.place(node)}: ncnn does not compute {what}; replace the operation, or give another target"
        )

    def place(self, node: NodeProto) -> str:
        """Return where a node stands in the network: its key, its module, or its name."""
        scopes = read_scopes(node)
        return short(self.keys.get(node.output[0]) or ".".join(scopes[-2:]) or node.name or node.output[0])


def option(node: NodeProto, name: str, default: object = None) -> str:
    """Return an attribute that is text."""
    value = attribute(node, name, default)
    return value.decode() if isinstance(value, bytes) else str(value)
