"""OpenVINO: Q/DQ ONNX read directly and saved as IR; asymmetric (`mixed`) or symmetric (`performance`) activations."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx

from srptq_adapters.targets.overflow_rules import check
from srptq_adapters.targets.probe import saturates
from srptq_adapters.targets.qdq_file import installed, write_qdq
from srptq_plugin.deploy.quant_table import QuantTable
from srptq_plugin.errors import SrptqError
from srptq_plugin.graph.fusion import Fusion
from srptq_plugin.graph.rules import Rules
from srptq_plugin.graph.types import Array, Size
from srptq_plugin.plugins.protocols import Finding
from srptq_plugin.quantization.grid import IntGrid

STEM = "model_openvino"
BITS = frozenset(range(2, 9))
"""Fewer than 8 bits are 8-bit integers that a Clip keeps in their range."""
INTEGERS = ("u8", "i8")
CONFIG = {"INFERENCE_PRECISION_HINT": "f32"}
"""The default on CPUs with bfloat16 is bfloat16, which is no reference for integers."""

MIXED = Rules(
    weights=IntGrid(8, signed=True, symmetric=True, narrow_range=True, channel_axis=0),
    activations=IntGrid(8),
    weight_bits=BITS,
    activation_bits=BITS,
    placements=("full", "convs"),
    inputs=frozenset({"conv", "add", "cat", "pixel_shuffle"}),
    outputs=frozenset(),
    fusions=(Fusion("relu"), Fusion("add", behind="conv", through=frozenset({"scale", "add"}))),
    pair_sum_bits=16,
    integer_bits=BITS,
)
PERFORMANCE = replace(
    MIXED,
    activations=IntGrid(8, signed=True, symmetric=True),
    nonnegative_activations=IntGrid(8, symmetric=True),
)


class OpenVinoTarget:
    """Integers on CPUs: `mixed` has asymmetric activations, `performance` symmetric ones."""

    presets: Mapping[str, Rules] = {"mixed": MIXED, "performance": PERFORMANCE}

    exports: Mapping[str, Sequence[object]] = MappingProxyType({})

    def require(self) -> None:
        """OpenVINO itself writes the IR."""
        installed("openvino")

    def write(self, network: Path, table: QuantTable, folder: Path) -> Sequence[Path]:
        """Intermediate representation (.xml, .bin), and the Q/DQ ONNX file that it was read from."""
        openvino = installed("openvino")
        onnx_file, xml = folder / f"{STEM}.onnx", folder / f"{STEM}.xml"
        write_qdq(network, _unsigned(table), onnx_file, behind_movement=False)
        openvino.save_model(openvino.Core().read_model(onnx_file), xml, compress_to_fp16=False)
        return tuple(folder / f"{STEM}.{kind}" for kind in ("xml", "bin", "onnx"))

    def lint(self, model: onnx.ModelProto) -> Sequence[Finding]:
        """Find weights that overflow on processors without VNNI."""
        return check(model)

    def load(self, artifact: Path) -> "OpenVinoModel":
        """The file compiled for the CPU."""
        return OpenVinoModel(artifact)

    def command(self, artifact: Path, size: Size | None) -> str:
        """OpenVINO's own timing tool."""
        shape = "" if size else ' -data_shape "[1,3,320,512]"'
        return f"benchmark_app -m {artifact.name} -d CPU -hint latency{shape}"


def _unsigned(table: QuantTable) -> QuantTable:
    """Signed activations as unsigned ones: the runtime computes them so, and gets concats of signed ones wrong."""
    roles = {site.name: site.role for site in table.plan.sites}
    found = {name: q.unsigned() if roles[name] == "activation" else q for name, q in table.qparams.items()}
    return replace(table, qparams=found)


class OpenVinoModel:
    """A compiled model, and the graph that it really runs."""

    def __init__(self, artifact: Path) -> None:
        openvino = installed("openvino")
        self.name = f"openvino {openvino.__version__.split('-')[0]}"
        try:
            self._model = openvino.Core().compile_model(artifact, "CPU", CONFIG)
        except Exception as error:
            raise SrptqError(f"{artifact}: OpenVINO does not load it: {error}") from error

    def __call__(self, image: Array) -> Array:
        """Run a [N, 3, H, W] batch."""
        return np.asarray(self._model(image)[0])

    def integer_convs(self) -> int:
        """Convolutions that the execution graph runs in 8-bit integers."""
        return sum(self.kernels().values())

    def kernels(self) -> Mapping[str, int]:
        """Count integer convolutions by the kernel that the execution graph names."""
        operations = (each.get_rt_info() for each in self._model.get_runtime_model().get_ops())
        convs = (info for info in operations if _text(info, "layerType") == "Convolution")
        return Counter(_text(info, "primitiveType") for info in convs if _text(info, "runtimePrecision") in INTEGERS)

    def saturates(self) -> bool:
        """Tell whether OpenVINO's kernels overflow here, measured once."""
        return _saturates()


@cache
def _saturates() -> bool:
    return saturates(OpenVinoModel)


def _text(info: Any, key: str) -> str:
    return str(info[key].value) if key in info else ""


TARGET = OpenVinoTarget()
