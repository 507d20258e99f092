"""Rules for a float ONNX file and its encodings: what Qualcomm's converter would fill, ignore or split."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
import torch
from onnx import ModelProto, NodeProto, TensorProto

from srptq_adapters.targets.encodings import Encodings, read
from srptq_adapters.targets.onnx_graph import OnnxGraph
from srptq_plugin.errors import short
from srptq_plugin.plugins.protocols import Finding
from srptq_plugin.quantization.grid import QParams

MISSING, UNUSED, WIDTH, CHANNELS, SPLIT, INSIDE = "QEN001", "QEN002", "QEN003", "QEN004", "QEN005", "QEN006"
WEIGHT_BITS, ACTIVATION_BITS, BIAS_BITS = {4, 8, 16}, {8, 16}, {8, 32}
MOVES = frozenset(
    {"DepthToSpace", "SpaceToDepth", "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Slice"}
    | {"Split", "Expand", "Gather", "Dropout"}
)
"""Operations whose result has the encoding of their input, and needs none of its own."""
ACTIVATIONS = frozenset({"Relu", "LeakyRelu", "PRelu", "Clip"})
KERNELS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
SIZES = frozenset({"Shape", "Constant", "ConstantOfShape", "Size"})


def check(model: ModelProto, path: Path) -> Sequence[Finding]:
    """Return a finding for each tensor whose encoding is missing or wrong.

    Args:
        model: The float file.
        path: The file of its encodings, of any version.
    """
    encodings = read(path, [constant.name for constant in model.graph.initializer])
    return list(_Pair(onnx.shape_inference.infer_shapes(model), encodings).findings())


@dataclass
class _Pair:
    model: ModelProto
    encodings: Encodings

    def __post_init__(self) -> None:
        self.graph = OnnxGraph(self.model.graph)
        self.constants = {tensor.name: tensor for tensor in self.model.graph.initializer}
        values = (*self.model.graph.input, *self.model.graph.value_info, *self.model.graph.output)
        self.sizes = self._sizes()
        self.floats = {value.name for value in values if value.type.tensor_type.elem_type == TensorProto.FLOAT}

    def _sizes(self) -> set[str]:
        """Return the values that follow from constants and from the image's size alone."""
        known = {"", *self.constants}
        for node in self.graph.nodes:
            if node.op_type in SIZES or all(value in known for value in node.input):
                known.update(node.output)
        return known

    def findings(self) -> Iterator[Finding]:
        yield from self._missing()
        yield from self._unused()
        yield from self._widths()
        yield from self._channels()
        yield from self._split()
        yield from self._inside()

    def _known(self, value: str) -> QParams | None:
        return self.encodings.activations.get(value, self.encodings.parameters.get(value))

    def _is_encoded(self, value: str) -> bool:
        """Tell whether a value has an encoding, or the one from which it is moved has."""
        if self._known(value) is not None or value in self.encodings.floats:
            return True
        node = self.graph.producers.get(value)
        return node is not None and node.op_type in MOVES and self._is_encoded(node.input[0])

    def _missing(self) -> Iterator[Finding]:
        inputs = [value.name for value in self.model.graph.input if value.name not in self.constants]
        computed = [value for node in self.graph.nodes if self._computes(node) for value in node.output]
        for value in [*inputs, *computed]:
            if value in self.floats and not self._is_encoded(value):
                problem = "has no encoding, so that the converter chooses one of its own"
                yield Finding(MISSING, short(value), problem, "calibrate it, or convert with --float_fallback")
        for node in self.graph.of(*KERNELS):
            weight = node.input[1]
            if weight in self.constants and not self._is_encoded(weight):
                problem = "is a weight without an encoding, which the converter rounds by its extremes"
                yield Finding(MISSING, short(weight), problem, "add it to param_encodings", severe=False)

    def _computes(self, node: NodeProto) -> bool:
        """Tell whether a node computes real numbers from the image that leave its kernel."""
        return node.output[0] not in self.sizes and node.op_type not in MOVES and not self._is_inside(node)

    def _is_inside(self, node: NodeProto) -> bool:
        """Tell whether the activation that alone reads a kernel's result is computed with it."""
        readers = self.graph.readers[node.output[0]]
        return node.op_type in KERNELS and len(readers) == 1 and readers[0].op_type in ACTIVATIONS

    def _unused(self) -> Iterator[Finding]:
        known = {*self.constants, *(value.name for value in self.model.graph.input)}
        known |= {value for node in self.graph.nodes for value in node.output}
        for name in self._names():
            if name not in known:
                problem = "names no tensor of the file, so that nothing reads it"
                yield Finding(UNUSED, short(name), problem, "write the encodings of this file")

    def _names(self) -> Iterable[str]:
        return [*self.encodings.activations, *self.encodings.parameters, *sorted(self.encodings.floats)]

    def _widths(self) -> Iterator[Finding]:
        biases = {node.input[2] for node in self.graph.of(*KERNELS) if len(node.input) > 2}  # noqa: PLR2004
        sides = (self.encodings.activations, ACTIVATION_BITS), (self.encodings.parameters, WEIGHT_BITS)
        for side, usual in sides:
            for name, qparams in side.items():
                bits = BIAS_BITS if name in biases else usual
                if qparams.grid.bits not in bits:
                    problem = f"has {qparams.grid.bits} bits, where HTP computes {' or '.join(map(str, sorted(bits)))}"
                    yield Finding(WIDTH, short(name), problem, "calibrate it with one of these")

    def _channels(self) -> Iterator[Finding]:
        axes = {node.input[1]: int(node.op_type == "ConvTranspose") for node in self.graph.of(*KERNELS)}
        for name, qparams in self.encodings.parameters.items():
            shape = self.constants[name].dims
            count = shape[axes.get(name, 0)] if shape else 1
            if qparams.scale.numel() not in (1, count):
                problem = f"has {qparams.scale.numel()} scales for {count} output channels"
                yield Finding(CHANNELS, short(name), problem, "write one for each channel, or one for all")

    def _split(self) -> Iterator[Finding]:
        for node in self.graph.nodes:
            moved = node.input[:1] if node.op_type in MOVES else node.input if node.op_type == "Concat" else []
            for source in moved:
                for result in node.output:
                    first, second = self._known(source), self._known(result)
                    if first is not None and second is not None and _differ(first, second):
                        problem = f"is moved by {node.op_type} to {short(result)!r}, which has another encoding"
                        yield Finding(SPLIT, short(source), problem, "give both one encoding, observed together")

    def _inside(self) -> Iterator[Finding]:
        for node in self.graph.nodes:
            value = node.output[0]
            if self._is_inside(node) and self._known(value) is not None:
                problem = f"lies between {node.op_type} and the activation that is computed with it"
                yield Finding(INSIDE, short(value), problem, "leave it out, unless for a DSP", severe=False)


def _differ(first: QParams, second: QParams) -> bool:
    """Tell whether encodings of one width differ. Between two widths the converter puts a conversion."""
    one, other = first.unsigned(), second.unsigned()
    same = torch.equal(one.scale, other.scale) and torch.equal(one.zero_point, other.zero_point)
    return not same and first.grid.bits == second.grid.bits
