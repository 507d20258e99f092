"""TensorRT: explicit Q/DQ ONNX with int8 everywhere, symmetric activations, and a Q/DQ on the skip of an add only."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import onnx

from srptq_adapters.targets.files import moved_into, write_qdq
from srptq_adapters.targets.reader import Reader
from srptq_adapters.targets.tensorrt_rules import check
from srptq_plugin.contracts import Finding, Rules, Size
from srptq_plugin.grid import IntGrid
from srptq_plugin.table import QuantTable

FILE = "model_tensorrt.onnx"
BITS = frozenset({8})


class TensorRtTarget:
    """Zero points are 0, of type int8, and written; convolutions add the skip and activate by themselves."""

    presets: Mapping[str, Rules] = {
        "default": Rules(
            weights=IntGrid(8, signed=True, symmetric=True, narrow=True, axis=0),
            activations=IntGrid(8, signed=True, symmetric=True),
            weight_bits=BITS,
            activation_bits=BITS,
            inputs=frozenset({"conv", "add"}),
            outputs=frozenset(),
            shared_concat=True,
            joins_in_conv=True,
        )
    }

    exports: Mapping[str, Sequence[object]] = MappingProxyType({})

    def require(self) -> None:
        """ONNX is all that writing needs."""

    def write(self, network: Path, table: QuantTable, folder: Path, **_: Any) -> Sequence[Path]:
        """One ONNX file."""
        with moved_into(folder) as draft:
            write_qdq(network, table, draft / FILE)
        return (folder / FILE,)

    def lint(self, model: onnx.ModelProto) -> Sequence[Finding]:
        """TensorRT's rules for explicit quantization."""
        return check(model)

    def load(self, artefact: Path) -> Reader:
        """The file as ONNX Runtime reads it: TensorRT itself needs its GPU."""
        return Reader(onnx.load(artefact), artefact, "TensorRT's file")

    def command(self, artefact: Path, size: Size | None) -> str:
        """TensorRT's own tool: it builds the engine and times it."""
        ends = {"min": "32x32", "opt": "270x480", "max": "1080x1920"}
        shapes = "" if size else "".join(f" --{end}Shapes=input:1x3x{sides}" for end, sides in ends.items())
        return f"trtexec --onnx={artefact.name} --stronglyTyped{shapes} --saveEngine={artefact.stem}.plan"


TARGET = TensorRtTarget()
