"""A Q/DQ file as ONNX Runtime's QNN provider takes it: every operation between Q/DQ pairs of one width."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, helper
from torch import Tensor

from srptq_adapters.targets.fusible_operations import to_fusible_operations
from srptq_adapters.targets.onnx_graph import OnnxGraph, attribute
from srptq_plugin.deploy.htp import affine, per_channel
from srptq_plugin.deploy.qdq import Placer, dequantizing, replace_nodes, store, store_parameters
from srptq_plugin.deploy.quant_table import BIAS as BIAS_GRID
from srptq_plugin.deploy.quant_table import QuantTable
from srptq_plugin.quantization.grid import IntGrid, QParams, quantize

OPSET_OF_16_BITS = 21
"""The first opset with uint16 in QuantizeLinear."""
PAIR = ("QuantizeLinear", "DequantizeLinear")
OUTPUT_AXES = {"Conv": 0, "ConvTranspose": 1}
"""The axis of the output channels in the weight of each convolution."""
WEIGHT, BIAS = 1, 2
ACTIVATIONS = ("Relu", "Clip", "Max", "Min", "LeakyRelu", "PRelu")
SLOPED = ("LeakyRelu", "PRelu")
SMALLEST_SLOPE = 1 / 256
SQUARE = 2
LARGEST_BIAS = 2**30
MOVES = frozenset(
    {"DepthToSpace", "SpaceToDepth", "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Slice", "Split"}
    | {"Expand", "Gather", "Pad", "Resize"}
)
"""Operations whose output has the levels of their input."""
FINER = 256
"""Steps of 16 bits in a step of 8: a tensor of 8 bits keeps its values in 16."""
Array = NDArray[Any]


def write_qdq(network: ModelProto, table: QuantTable) -> ModelProto:
    """Return the Q/DQ file of a float network.

    The provider leaves an operation to the CPU if a tensor that it reads or makes is float, or if their widths differ.
    """
    model = Placer(network, table).place()
    to_fusible_operations(model)
    rewriter = _Rewriter(model)
    replace_nodes(model, [new for node in rewriter.graph.nodes for new in rewriter.rewritten(node)])
    if any(site.grid.bits > 8 for site in table.plan.sites):  # noqa: PLR2004
        model.opset_import[0].version = OPSET_OF_16_BITS
    onnx.checker.check_model(model)
    return model


class _Rewriter:
    """A Q/DQ file whose operations get constants in integers, and tensors of one width."""

    def __init__(self, model: ModelProto) -> None:
        self._model, self.graph = model, OnnxGraph(model.graph)
        self._waiting: dict[str, list[NodeProto]] = {}

    def rewritten(self, node: NodeProto) -> Iterator[NodeProto]:
        """Yield a node, with what it needs before and behind it."""
        reads, writes = any(map(self.graph.is_dequantized, node.input)), node.op_type in MOVES or self._quantizers(node)
        if node.op_type in PAIR or not (reads and writes):
            yield node
            yield from self._waiting.get(node.output[0], ())
            return
        self._multiply_square(node)
        width = max(self._widths(node))
        yield from self._before(node, width)
        yield node
        yield from self._behind(node, width)

    def _multiply_square(self, node: NodeProto) -> None:
        """Multiply a value by itself where it has an exponent of 2: HTP cannot allocate a power."""
        if node.op_type == "Pow" and np.all(self.graph.constant(node.input[1]) == SQUARE):
            node.op_type, node.input[1] = "Mul", node.input[0]

    def _widths(self, node: NodeProto) -> Iterator[int]:
        """Yield the bits of the tensors that an operation reads and makes, except for weights and biases."""
        for value in node.input[:1] if node.op_type in OUTPUT_AXES else node.input:
            if self.graph.is_dequantized(value):
                yield self._bits(self.graph.producers[value])
        yield from (self._bits(reader) for reader in self._quantizers(node))

    def _quantizers(self, node: NodeProto) -> list[NodeProto]:
        """Return what rounds a node's output, or the activation that is computed with it."""
        readers = self.graph.readers[node.output[0]]
        if len(readers) == 1 and readers[0].op_type in ACTIVATIONS:
            readers = self.graph.readers[readers[0].output[0]]
        return [reader for reader in readers if reader.op_type == "QuantizeLinear"]

    def _bits(self, node: NodeProto) -> int:
        """Return the bits of the integers of a QuantizeLinear or DequantizeLinear."""
        return 8 * self.graph.constant(node.input[2]).itemsize

    def _before(self, node: NodeProto, width: int) -> Iterator[NodeProto]:
        for index, value in enumerate(node.input):
            values = self.graph.constant(value)
            name = f"{node.output[0]}_input_{index}"
            if values is not None and values.dtype == np.float32 and node.op_type != "Resize":
                constant = torch.from_numpy(values.copy())
                yield self._dequantizing(name, constant, self._levels(node, index, constant, width))
                node.input[index] = f"{name}_dequantized"
            elif self._is_narrower(node, index, width):
                yield from self._wider(value, name, self.graph.producers[value])
                node.input[index] = name

    def _is_narrower(self, node: NodeProto, index: int, width: int) -> bool:
        value = node.input[index]
        is_weight = index > 0 and node.op_type in OUTPUT_AXES
        return not is_weight and self.graph.is_dequantized(value) and self._bits(self.graph.producers[value]) < width

    def _behind(self, node: NodeProto, width: int) -> Iterator[NodeProto]:
        readers, inserted = self.graph.readers[node.output[0]], list[NodeProto]()
        if node.op_type in MOVES and not self._quantizers(node):
            inserted += self._moved(node)
        elif len(readers) == 1 and readers[0].op_type in ACTIVATIONS:
            inserted += self._inner(node, readers[0])
        for reader in self._quantizers(node):
            if self._bits(reader) < width:
                value, name = reader.input[0], f"{reader.input[0]}_{width}bit"
                pair = self._wider(value, name, reader)
                reader.input[0] = name
                if value == node.output[0]:
                    yield from pair
                else:
                    self._waiting[value] = list(pair)
        yield from inserted

    def _wider(self, value: str, name: str, narrow: NodeProto) -> tuple[NodeProto, NodeProto]:
        """Return a pair of 16 bits on a value, whose grid has the levels of a node of 8 bits."""
        scale, zero = (torch.from_numpy(self.graph.constant(constant).copy()) for constant in narrow.input[1:3])
        return _pair(value, name, self._parameters(name, QParams(scale / FINER, zero.float() * FINER, IntGrid(16))))

    def _moved(self, node: NodeProto) -> Iterator[NodeProto]:
        """Yield pairs behind an operation that moves integers, on the levels of its input."""
        constants = self.graph.producers[node.input[0]].input[1:3]
        for index, value in enumerate(node.output):
            name = f"{value}_moved"
            if value == self._model.graph.output[0].name:
                name, node.output[index] = value, name  # the image keeps its name
            yield from self._inserted(node.output[index], name, constants)

    def _inner(self, node: NodeProto, activation: NodeProto) -> Iterator[NodeProto]:
        """Yield a pair between an operation and the activation that HTP computes with it, if the provider needs one.

        HTP does not look at its levels. They hold all that the output's levels stand for.
        """
        constants = self._quantizers(activation)[0].input[1:3]
        scale, zero = (self.graph.constant(value) for value in constants)
        if activation.op_type == "Relu" and not zero:
            return
        name = f"{node.output[0]}_inner"
        if activation.op_type in SLOPED:
            below, above = float(zero) / self._smallest_slope(activation), float(np.iinfo(zero.dtype).max) - float(zero)
            levels = affine(torch.tensor([-below, above]) * float(scale), 8 * zero.itemsize)
            constants = self._parameters(name, levels)
        yield from self._inserted(node.output[0], name, constants)

    def _smallest_slope(self, activation: NodeProto) -> float:
        slopes = attribute(activation, "alpha", 0.01)
        if activation.op_type == "PRelu":
            slopes = self.graph.constant(activation.input[1])
        return max(float(np.abs(slopes).min()), SMALLEST_SLOPE)

    def _inserted(self, value: str, name: str, constants: Sequence[str]) -> Sequence[NodeProto]:
        """Let the readers of a value read a Q/DQ pair on it."""
        for reader in self.graph.readers[value]:
            reader.input[:] = [name if read == value else read for read in reader.input]
        nodes = _pair(value, name, constants)
        self.graph.producers[name] = nodes[1]
        self.graph.readers[name], self.graph.readers[value] = self.graph.readers[value], [nodes[0]]
        return nodes

    def _levels(self, node: NodeProto, index: int, values: Tensor, width: int) -> QParams:
        """Return the levels on which a constant is stored."""
        if node.op_type not in OUTPUT_AXES:
            return affine(values, width)
        if index == BIAS:
            scale = torch.from_numpy(self._bias_scale(node, values.numpy()))
            return QParams(scale, torch.zeros_like(scale), BIAS_GRID)
        return per_channel(values, OUTPUT_AXES[node.op_type])

    def _bias_scale(self, node: NodeProto, bias: Array) -> Array:
        """Return the scale of a bias. The weight gets a larger one in channels whose bias would not fit 32 bits.

        Such a channel is nearly its bias alone.
        """
        image, weight = (self.graph.producers[value] for value in node.input[:BIAS])
        step, scale = (self.graph.constant(part.input[1]) for part in (image, weight))
        least = np.abs(bias) / (float(step) * LARGEST_BIAS)
        if np.any(least > scale):
            axis, integers = OUTPUT_AXES[node.op_type], self.graph.constant(weight.input[0])
            wider = np.maximum(least, scale).astype(np.float32)
            shape = [-1 if n == axis else 1 for n in range(integers.ndim)]
            rounded = np.rint(integers * (scale / wider).reshape(shape)).astype(integers.dtype)
            weight.input[0] = store(self._model, f"{node.output[0]}_weight_integers", rounded)
            weight.input[1] = store(self._model, f"{node.output[0]}_weight_scale", wider)
            scale = wider
        return np.asarray(step * scale, np.float32)

    def _dequantizing(self, name: str, values: Tensor, levels: QParams) -> NodeProto:
        """Return a DequantizeLinear of a constant in integers."""
        node = dequantizing(self._model, name, quantize(values.double(), levels), levels)
        self._know_constants(3)
        self.graph.producers[node.output[0]] = node
        return node

    def _parameters(self, name: str, levels: QParams) -> tuple[str, str]:
        constants = store_parameters(self._model, name, levels)
        self._know_constants(2)
        return constants

    def _know_constants(self, count: int) -> None:
        """Let the graph know so many constants, the last of the file."""
        for constant in self._model.graph.initializer[-count:]:
            self.graph.add_constant(constant)


def _pair(value: str, name: str, constants: Sequence[str]) -> tuple[NodeProto, NodeProto]:
    """Return a Q/DQ pair on a value, by the names of its scale and its zero point."""
    return (
        helper.make_node("QuantizeLinear", [value, *constants], [f"{name}_q"], f"{name}_q"),
        helper.make_node("DequantizeLinear", [f"{name}_q", *constants], [name], name),
    )
