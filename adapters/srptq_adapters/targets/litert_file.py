"""The flatbuffer of a LiteRT file, by the schema that ai-edge-litert ships."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import flatbuffers
import numpy as np

IDENTIFIER = b"TFL3"
VERSION = 3
INT8_VERSIONS = {
    "CONV_2D": 3,
    "DEPTHWISE_CONV_2D": 3,
    "FULLY_CONNECTED": 4,
    "QUANTIZE": 1,
    "RESHAPE": 1,
    "TRANSPOSE_CONV": 3,
}
"""The versions of operations that take int8. All others have version 2."""
ANY_LENGTH = -1
MOST_OF_OLD_CODES = 127
"""The largest number of an operation in the field that the first files had."""
Values = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Encoding:
    """The scales and zero points of integers. Several belong to the slices along an axis."""

    scales: tuple[float, ...]
    zeros: tuple[int, ...]
    axis: int = 0

    @property
    def lowest(self) -> float:
        """The real value of the lowest integer."""
        return (-128 - self.zeros[0]) * self.scales[0]

    @property
    def highest(self) -> float:
        """The real value of the highest integer."""
        return (127 - self.zeros[0]) * self.scales[0]


@dataclass(frozen=True)
class Operation:
    """What LiteRT computes.

    Attributes:
        kind: The name of the operation, such as `CONV_2D`.
        table: The name of the table of its options, such as `Conv2DOptions`, or "" if it has none.
        options: Its options by name, as far as they are not the defaults.
    """

    kind: str
    table: str = ""
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])


PAD, PADV2 = Operation("PAD", "PadOptions"), Operation("PADV2", "PadV2Options")
SLICE = Operation("SLICE", "SliceOptions")


def join(axis: int) -> Operation:
    """Return a concat along an axis."""
    return Operation("CONCATENATION", "ConcatenationOptions", {"axis": axis})


def to_space(block: int) -> Operation:
    """Return a depth-to-space of blocks of so many pixels along each side."""
    return Operation("DEPTH_TO_SPACE", "DepthToSpaceOptions", {"blockSize": block})


class LiteRtFile:
    """The tensors and operations of a file, in the order in which they are added."""

    def __init__(self) -> None:
        self._schema: Any = import_module("ai_edge_litert.schema_py_generated")
        self._tensors: list[Any] = []
        self._buffers: list[Any] = [self._schema.BufferT()]  # buffer 0 is empty, for computed tensors
        self._operators: list[Any] = []
        self._codes: dict[tuple[str, int], int] = {}

    def constant(self, name: str, values: Values, encoding: Encoding | None = None) -> int:
        """Add a constant tensor, and return its place."""
        buffer = self._schema.BufferT()
        buffer.data = np.frombuffer(np.ascontiguousarray(values).tobytes(), np.uint8)
        self._buffers.append(buffer)
        return self._tensor(name, values.shape, str(values.dtype), encoding, len(self._buffers) - 1)

    def computed(self, name: str, shape: Sequence[int], encoding: Encoding | None, free: Sequence[int] = ()) -> int:
        """Add a tensor that an operation computes, and return its place. Its lengths along the `free` axes may vary."""
        place = self._tensor(name, shape, "float32" if encoding is None else "int8", encoding, 0)
        if free:
            signature = [ANY_LENGTH if axis in free else length for axis, length in enumerate(shape)]
            self._tensors[place].shapeSignature = signature
        return place

    def _tensor(self, name: str, shape: Sequence[int], kind: str, encoding: Encoding | None, buffer: int) -> int:
        tensor = self._schema.TensorT()
        tensor.name, tensor.shape, tensor.buffer = name, list(shape), buffer
        tensor.type, tensor.hasRank = getattr(self._schema.TensorType, kind.upper()), True
        if encoding is not None:
            tensor.quantization = parameters = self._schema.QuantizationParametersT()
            parameters.scale, parameters.zeroPoint = list(encoding.scales), list(encoding.zeros)
            parameters.quantizedDimension = encoding.axis
        self._tensors.append(tensor)
        return len(self._tensors) - 1

    def add(self, operation: Operation, inputs: Sequence[int], output: int) -> None:
        """Add an operation that reads tensors and computes one, by their places."""
        operator = self._schema.OperatorT()
        operator.opcodeIndex = self._code(operation.kind, inputs)
        operator.inputs, operator.outputs = list(inputs), [output]
        if operation.table:
            operator.builtinOptionsType = getattr(self._schema.BuiltinOptions, operation.table)
            operator.builtinOptions = getattr(self._schema, f"{operation.table}T")()
            vars(operator.builtinOptions).update(operation.options)
        self._operators.append(operator)

    def _code(self, kind: str, inputs: Sequence[int]) -> int:
        int8 = self._schema.TensorType.INT8
        reads_integers = any(self._tensors[place].type == int8 for place in inputs)
        version = INT8_VERSIONS.get(kind, 2) if reads_integers else 1
        return self._codes.setdefault((kind, version), len(self._codes))

    def content(self, image: int, output: int) -> bytes:
        """Return the file with these tensors as the network's input and output."""
        schema = self._schema
        graph = schema.SubGraphT()
        graph.tensors, graph.operators = self._tensors, self._operators
        graph.inputs, graph.outputs = [image], [output]
        model = schema.ModelT()
        model.version, model.subgraphs, model.buffers = VERSION, [graph], self._buffers
        model.operatorCodes = [self._operator_code(*code) for code in self._codes]
        builder = flatbuffers.Builder(0)
        builder.Finish(model.Pack(builder), IDENTIFIER)
        return bytes(builder.Output())

    def _operator_code(self, kind: str, version: int) -> Any:
        code = self._schema.OperatorCodeT()
        code.builtinCode = getattr(self._schema.BuiltinOperator, kind)
        code.deprecatedBuiltinCode, code.version = min(code.builtinCode, MOST_OF_OLD_CODES), version
        return code
