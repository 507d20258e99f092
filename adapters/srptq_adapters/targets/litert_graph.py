"""A Q/DQ ONNX network on its way to the operations of a LiteRT file.

LiteRT wants the channels last. Values of four dimensions are stored so, and all others in the order of ONNX.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto, NodeProto

from srptq_adapters.targets.litert_file import Encoding, LiteRtFile, Operation, Values
from srptq_adapters.targets.litert_sizes import lengths, with_shapes
from srptq_adapters.targets.onnx_graph import OnnxGraph
from srptq_plugin.deploy.onnx_export import read_scopes
from srptq_plugin.errors import SrptqError, short
from srptq_plugin.graph.types import Size

IMAGE_RANK = 4
LAST, FIRST = (0, 2, 3, 1), (0, 3, 1, 2)
"""Permutations that put the channels last, and back in front."""
RESHAPE, TRANSPOSE = Operation("RESHAPE", "ReshapeOptions"), Operation("TRANSPOSE", "TransposeOptions")
SIDES = (1, 2)
"""The axes of height and width."""


@dataclass(frozen=True)
class Integers:
    """A constant of integers, such as a weight."""

    values: Values
    encoding: Encoding

    def floats(self) -> Values:
        """Return the real values."""
        shape = [1] * self.values.ndim
        if self.values.ndim:
            shape[self.encoding.axis] = -1
        zeros, scales = (np.array(part).reshape(shape) for part in (self.encoding.zeros, self.encoding.scales))
        return ((self.values - zeros) * scales).astype(np.float32)


class LiteRtGraph:
    """The operations translated so far, and the tensors that hold the values of the ONNX file.

    Attributes:
        onnx: The file, with its producers, readers and constants.
        file: The file that is written.
        fixed: Whether it takes images of one size only.
        done: Values that the operation of an earlier node computes.
        permuted: Values whose channels are in the order of LiteRT's depth-to-space.
    """

    def __init__(self, model: ModelProto, size: Size, *, fixed: bool, integers: bool) -> None:
        shaped = with_shapes(model, size, fixed=fixed)
        self.onnx, self.file, self.fixed = OnnxGraph(shaped.graph), LiteRtFile(), fixed
        self.done: set[str] = set()
        self.permuted: set[str] = set()
        self._shapes = {value.name: lengths(value) for value in (*shaped.graph.value_info, *shaped.graph.output)}
        self._shapes[shaped.graph.input[0].name] = size
        self._stored: dict[str, tuple[int, Encoding | None]] = {}
        self._constants: dict[str, Integers] = {}
        self._others: dict[tuple[str, Encoding | None], int] = {}
        """Tensors of values in another encoding than they are stored in."""
        self._image, self._output = shaped.graph.input[0].name, shaped.graph.output[0].name
        encoding = self.wanted(self._image) if integers else None
        self._stored[self._image] = self._computed(self._image, size, encoding), encoding

    def shape(self, value: str) -> Sequence[int]:
        """Return the shape of a value in ONNX."""
        constant = self.constant(value)
        if constant is not None:
            return constant.shape
        if not all(self._shapes.get(value, (0,))):
            raise self.refusal_of_sizes(self.onnx.producers[value], "of an unknown shape")
        return self._shapes[value]

    def constant(self, value: str) -> Values | None:
        """Return the values of a constant, also of a quantized one, or None for a computed value."""
        if not value:
            return None
        return self._constants[value].floats() if value in self._constants else self.onnx.constant(value)

    def integers(self, value: str) -> Integers | None:
        """Return the integers of a quantized constant, or None."""
        return self._constants.get(value)

    def input(self, node: NodeProto, index: int) -> Values | None:
        """Return the constant that a node reads, or None if it reads none there."""
        return self.constant(node.input[index]) if len(node.input) > index else None

    def encoding(self, value: str) -> Encoding | None:
        """Return the encoding in which a value is stored, or None for floats."""
        return self._stored[value][1] if value in self._stored else None

    def wanted(self, value: str) -> Encoding | None:
        """Return the encoding in which all readers want a value, or None if one wants floats or they differ."""
        wanted = {self.read_encoding(node) for node in self.onnx.readers[value]}
        return wanted.pop() if len(wanted) == 1 else None

    def read_encoding(self, node: NodeProto) -> Encoding | None:
        """Return the encoding of a QuantizeLinear or DequantizeLinear. Return None for any other node."""
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            return None
        scale, zero = (self.onnx.constant(value) for value in node.input[1:3])
        axis = next((entry.i for entry in node.attribute if entry.name == "axis"), 0) if scale.size > 1 else 0
        return Encoding(tuple(map(float, scale.reshape(-1))), tuple(map(int, zero.reshape(-1))), axis)

    def store_constant(self, value: str, integers: Integers) -> None:
        """Let a value stand for constant integers."""
        self._constants[value] = integers

    def store(self, value: str, tensor: int, encoding: Encoding | None) -> None:
        """Let a tensor hold a value."""
        self._stored[value] = tensor, encoding

    def alias(self, node: NodeProto) -> None:
        """Let the tensor of a node's input hold its output."""
        self._stored[node.output[0]] = self._stored[node.input[0]]

    def tensor(self, value: str, encoding: Encoding | None, rank: int = 0) -> int:
        """Return the tensor that holds a value in an encoding, or as floats. Add the conversion that it takes.

        Args:
            rank: The least number of dimensions of a constant. It gets more in front.
        """
        if (constant := self.constant(value)) is not None:
            return self._constant(value, constant, encoding, rank)
        tensor, stored = self._stored[value]
        if stored == encoding:
            return tensor
        if (value, encoding) not in self._others:
            self._others[value, encoding] = self._converted(value, tensor, encoding)
        return self._others[value, encoding]

    def source(self, node: NodeProto, result: Encoding | None) -> int:
        """Return the tensor that a node reads first: as it is stored if the result has an encoding, else as floats."""
        return self.tensor(node.input[0], result and self.encoding(node.input[0]))

    def _converted(self, value: str, tensor: int, encoding: Encoding | None) -> int:
        converted = self._computed(value, self.shape(value), encoding)
        self.file.add(Operation("DEQUANTIZE" if encoding is None else "QUANTIZE"), [tensor], converted)
        return converted

    def _constant(self, value: str, values: Values, encoding: Encoding | None, rank: int) -> int:
        values = values.reshape((1,) * (rank - values.ndim) + values.shape)
        values = channels_last(values.astype(np.float32))
        if encoding is not None:
            held = np.clip(values, encoding.lowest, encoding.highest)
            values = (np.rint(held / encoding.scales[0]) + encoding.zeros[0]).astype(np.int8)
        return self.file.constant(value, values, encoding)

    def add(self, operation: Operation, inputs: Sequence[int], value: str, encoding: Encoding | None) -> None:
        """Add an operation whose result holds a value."""
        output = self._computed(value, self.shape(value), encoding)
        self.file.add(operation, inputs, output)
        self.store(value, output, encoding)

    def operand(self, value: str, result: str, encoding: Encoding | None) -> int:
        """Return the tensor of a value that is combined with others, with as many dimensions as the result."""
        rank, shape = len(self.shape(result)), self.shape(value)
        tensor = self.tensor(value, encoding, rank)
        if self.constant(value) is not None or len(shape) in (rank, 0) or rank != IMAGE_RANK:
            return tensor
        shape = channels_last_shape([*(1,) * (rank - len(shape)), *shape])
        return self.inner(RESHAPE, [tensor, self.numbers(shape)], shape, encoding)

    def plain(self, value: str, *, as_floats: bool = False) -> int:
        """Return the tensor of a value in the order of ONNX, as it is stored or as floats."""
        if (constant := self.constant(value)) is not None:
            return self.file.constant(value, constant.astype(np.float32))
        encoding = None if as_floats else self.encoding(value)
        tensor = self.tensor(value, encoding)
        if len(shape := self.shape(value)) != IMAGE_RANK:
            return tensor
        return self.inner(TRANSPOSE, [tensor, self.numbers(FIRST)], shape, encoding)

    def add_plain(self, operation: Operation, inputs: Sequence[int], value: str, encoding: Encoding | None) -> None:
        """Add an operation on tensors in the order of ONNX, whose result holds a value."""
        shape = self.shape(value)
        if len(shape) != IMAGE_RANK:
            self.add(operation, inputs, value, encoding)
            return
        tensor = self.inner(operation, inputs, shape, encoding)
        self.add(TRANSPOSE, [tensor, self.numbers(LAST)], value, encoding)

    def finish(self, *, integers: bool) -> bytes:
        """Return the file, with an output of floats, or of the integers in which it is stored."""
        output = self.tensor(self._output, self.encoding(self._output) if integers else None)
        return self.file.content(self._stored[self._image][0], output)

    def inner(
        self, operation: Operation, inputs: Sequence[int], shape: Sequence[int], encoding: Encoding | None
    ) -> int:
        """Add an operation whose result holds no value of the ONNX file, and return its tensor.

        Args:
            shape: The lengths as the tensor is stored.
        """
        output = self.file.computed(operation.kind.lower(), shape, encoding, self._free(shape))
        self.file.add(operation, inputs, output)
        return output

    def _computed(self, value: str, shape: Sequence[int], encoding: Encoding | None) -> int:
        shape = channels_last_shape(shape)
        return self.file.computed(value, shape, encoding, self._free(shape))

    def _free(self, shape: Sequence[int]) -> Sequence[int]:
        is_map = not self.fixed and len(shape) == IMAGE_RANK
        return [axis for axis in SIDES if shape[axis] > 1] if is_map else []

    def scalar(self, value: float, encoding: Encoding | None) -> int:
        """Add a constant of one number, in an encoding or as a float."""
        return self._constant("number", np.float32(value).reshape(1), encoding, 1)

    def numbers(self, values: Sequence[int]) -> int:
        """Add a constant of 32-bit integers."""
        return self.file.constant("numbers", np.array(values, np.int32))

    def refusal(self, node: NodeProto, detail: str = "") -> SrptqError:
        """Return the error for a node that no file holds, or not with these parameters."""
        return _refusal(node, detail, "")

    def refusal_of_sizes(self, node: NodeProto, detail: str) -> SrptqError:
        """Return the error for a node that only a file of one size holds."""
        return _refusal(node, detail, "" if self.fixed else "give `input_size` for a file of one size, ")


def _refusal(node: NodeProto, detail: str, cure: str) -> SrptqError:
    place = short(".".join(read_scopes(node)[-2:]) or node.name or node.output[0])
    what = " ".join(filter(None, (node.op_type, detail)))
    return SrptqError(
        f"{place}: LiteRT's files do not hold {what}; {cure}replace the operation, or give another target"
    )


def channels_last(values: Values) -> Values:
    """Return values of four dimensions with the second one last, and others as they are."""
    return values.transpose(LAST) if values.ndim == IMAGE_RANK else values


def channels_last_shape(shape: Sequence[int]) -> list[int]:
    """Return the lengths of a tensor that is stored with its channels last, if it has four dimensions."""
    return [shape[axis] for axis in LAST] if len(shape) == IMAGE_RANK else list(shape)
