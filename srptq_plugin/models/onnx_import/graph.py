"""The operations of an ONNX graph that depend on the image, with everything else computed."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto, ValueInfoProto, numpy_helper

from srptq_plugin.errors import SrptqError, short
from srptq_plugin.graph.network import IMAGE_AXES
from srptq_plugin.models.model_record import CHANNELS, Arguments
from srptq_plugin.models.onnx_import import image_operations, shape_operations
from srptq_plugin.models.onnx_import.container import Path, fold
from srptq_plugin.models.onnx_import.layers import BUILDERS
from srptq_plugin.models.onnx_import.operation import Numbers, Operation
from srptq_plugin.models.onnx_import.paths import module_path

QUANTIZED = ("Quantize", "QLinear", "Integer", "FakeQuant")
"""Parts of the names of operations on integers."""
DOMAINS = ("", "ai.onnx")
"""The names of the domain of ONNX's own operations."""
SHOWN = 6
"""The most operations that an error lists."""
KNOWN = frozenset({*BUILDERS, *image_operations.FUNCTIONS, *shape_operations.FUNCTIONS, "Constant"})


@dataclass(frozen=True)
class Port:
    """An image of the file.

    Attributes:
        name: The value's name.
        sides: The declared length of each axis, or None for any.
        channels_last: Whether the channels are the last axis.
        floats: Whether its values are floats.
    """

    name: str
    sides: tuple[int | None, ...]
    channels_last: bool
    floats: bool

    @property
    def axes(self) -> int:
        """The number of axes that are longer than 1, or may be."""
        return sum(side != 1 for side in self.sides)

    @classmethod
    def read(cls, value: ValueInfoProto) -> "Port":
        """Read an input or output of a file."""
        kind = value.type.tensor_type
        sides = tuple(side.dim_value if side.HasField("dim_value") else None for side in kind.shape.dim)
        last = len(sides) == IMAGE_AXES and sides[3] in CHANNELS and sides[1] not in CHANNELS
        return cls(value.name, sides, last, kind.elem_type in shape_operations.FLOATS)


@dataclass(frozen=True)
class OnnxGraph:
    """A graph without what does not depend on the image.

    Attributes:
        image: The input.
        outputs: The outputs.
        operations: The operations that depend on the image, in order, each with the module path that the file tells.
        constants: All other values by name.
    """

    image: Port
    outputs: tuple[Port, ...]
    operations: list[tuple[Operation, Path]]
    constants: dict[str, Numbers]

    @classmethod
    def read(cls, model: ModelProto, arguments: Arguments) -> "OnnxGraph":
        """Read a model, with values of its inputs besides the image by name."""
        _refuse_operations(model)
        constants = {tensor.name: _to_array(tensor) for tensor in model.graph.initializer}
        inputs = [Port.read(value) for value in model.graph.input if value.name not in constants]
        if not inputs:
            raise SrptqError("the graph has no input; export a network that reads an image")
        # The image has more axes of some length than a strength or a map of noise, and no argument gives its values.
        image, *others = sorted(inputs, key=lambda port: (port.name in arguments, -port.axes))
        constants |= _fix_inputs(others, arguments)
        outputs = tuple(map(Port.read, model.graph.output))
        opset = max((entry.version for entry in model.opset_import if entry.domain in DOMAINS), default=1)
        nodes = [(Operation.read(node, opset), module_path(node)) for node in model.graph.node]
        needed = _needed(nodes, {port.name for port in outputs})
        varying = [(op, path) for op, path in needed if not _is_folded(op, constants)]
        return cls(image, outputs, list(_join_linear(varying, constants, outputs)), constants)


def _refuse_operations(model: ModelProto) -> None:
    kinds = Counter(
        node.op_type if node.domain in DOMAINS else f"{node.domain}.{node.op_type}" for node in model.graph.node
    )
    if quantized := [kind for kind in kinds if any(part in kind for part in QUANTIZED)]:
        raise SrptqError(
            f"the network is quantized already ({', '.join(quantized[:SHOWN])}); give the float file it was made from"
        )
    if unknown := sorted(kinds.keys() - KNOWN):
        texts = ", ".join(f"{short(kind)} ({kinds[kind]})" for kind in unknown[:SHOWN])
        more = f", and {len(unknown) - SHOWN} more" if len(unknown) > SHOWN else ""
        raise SrptqError(
            f"operations that are not read: {texts}{more}; export without them, or give the network as a module"
        )


def _to_array(tensor: TensorProto) -> Numbers:
    """Return a tensor of the file, floats in float32."""
    array: Any = numpy_helper.to_array(tensor)
    return array.astype(np.float32) if tensor.data_type in shape_operations.FLOATS else array


def _fix_inputs(inputs: Sequence[Port], arguments: Arguments) -> dict[str, Numbers]:
    """Return the values of inputs besides the image."""
    names = [port.name for port in inputs]
    if unknown := [name for name in arguments if name not in names]:
        offered = f"besides the image it has {', '.join(names)}" if names else "it reads an image only"
        raise SrptqError(f"`{unknown[0]}` is no input of the graph; {offered}")
    if missing := [name for name in names if name not in arguments]:
        raise SrptqError(
            f"the graph reads {', '.join(names)} besides the image; fix them: `args={{'{missing[0]}': ...}}`"
        )
    return {port.name: _filled(port, arguments[port.name]) for port in inputs}


def _filled(port: Port, value: Any) -> Numbers:
    array = np.asarray(value, np.float32 if port.floats else np.int64)
    # A side of any length has one value, which is repeated.
    return np.broadcast_to(array, [side or 1 for side in port.sides]) if array.size == 1 else array


def _needed(nodes: list[tuple[Operation, Path]], outputs: set[str]) -> list[tuple[Operation, Path]]:
    """Return the operations that an output depends on."""
    needed, kept = set(outputs), list[tuple[Operation, Path]]()
    for operation, path in reversed(nodes):
        if needed.intersection(operation.outputs):
            needed.update(operation.inputs)
            kept.append((operation, path))
    return kept[::-1]


def _is_folded(operation: Operation, constants: dict[str, Numbers]) -> bool:
    """Add the outputs of an operation that reads constants only to these, and tell whether it is one."""
    if operation.kind == "Constant":
        constants[operation.outputs[0]] = _constant(operation)
        return True
    if any(name and name not in constants for name in operation.inputs):
        return False
    results = fold(operation, [constants[name] if name else None for name in operation.inputs])
    constants.update(zip(operation.outputs, results, strict=False))
    return True


def _constant(operation: Operation) -> Numbers:
    kinds = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64}
    for name, kind in kinds.items():
        if name in operation.attributes:
            return np.asarray(operation.get(name), kind)
    value = operation.get("value")
    if not isinstance(value, np.ndarray):
        raise SrptqError(f"{operation.label} is sparse or text; export it as numbers")
    is_float = value.dtype.kind not in "iub"  # bfloat16 is of a kind of its own
    return value.astype(np.float32) if is_float else value


def _join_linear(
    operations: list[tuple[Operation, Path]], constants: dict[str, Numbers], outputs: Sequence[Port]
) -> Iterator[tuple[Operation, Path]]:
    """Join a product with a weight and the sum with a bias, which exporters make of one linear layer."""
    readers = Counter(name for operation, _ in operations for name in operation.inputs)
    readers.update(port.name for port in outputs)
    products = {
        operation.outputs[0]: operation
        for operation, _ in operations
        if operation.kind == "MatMul" and operation.inputs[1] in constants and readers[operation.outputs[0]] == 1
    }
    joined: dict[str, Operation] = {}
    for operation, _ in operations:
        pairs = [operation.inputs, operation.inputs[::-1]] if operation.kind == "Add" else []
        for product, bias in pairs:
            if product in products and bias in constants and _fits(constants, products[product].inputs[1], bias):
                inputs = *products[product].inputs, bias
                joined[product] = replace(products[product], inputs=inputs, outputs=operation.outputs)
    sums = {operation.outputs for operation in joined.values()}
    for operation, path in operations:
        if operation.outputs[0] in joined:
            yield joined[operation.outputs[0]], path
        elif operation.outputs not in sums:
            yield operation, path


def _fits(constants: dict[str, Numbers], weight: str, bias: str) -> bool:
    return constants[weight].ndim == 2 and constants[bias].shape == constants[weight].shape[1:]  # noqa: PLR2004
