"""ONNX Runtime on CPU: Q/DQ ONNX with uint8 affine activations, which fuses to QLinearConv and QLinearAdd."""

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx

from srptq_adapters.targets.overflow_rules import check
from srptq_adapters.targets.probe import saturates
from srptq_adapters.targets.qdq_file import installed, write_qdq
from srptq_plugin.deploy.quant_table import QuantTable
from srptq_plugin.errors import SrptqError, first_line
from srptq_plugin.graph.rules import Rules
from srptq_plugin.graph.types import Array, Size
from srptq_plugin.plugins.protocols import Finding
from srptq_plugin.quantization.grid import IntGrid

FILE = "model_onnxruntime.onnx"
OPS = frozenset({"conv", "add", "cat", "leaky_relu"})
BITS = frozenset(range(2, 9))
"""Fewer than 8 bits are 8-bit integers that a Clip keeps in their range."""
INTEGER_CONVS = ("QLinearConv", "ConvInteger")


class OnnxRuntimeTarget:
    """uint8 affine activations per tensor, int8 symmetric weights per channel."""

    presets: Mapping[str, Rules] = {
        "default": Rules(
            weights=IntGrid(8, signed=True, symmetric=True, narrow_range=True, channel_axis=0),
            activations=IntGrid(8),
            weight_bits=BITS,
            activation_bits=BITS,
            placements=("full",),
            inputs=OPS,
            outputs=OPS,
            integer_bias=True,
            pair_sum_bits=16,
            integer_bits=BITS,
        )
    }

    exports: Mapping[str, Sequence[object]] = MappingProxyType({})

    def require(self) -> None:
        """ONNX is all that writing needs."""

    def write(self, network: Path, table: QuantTable, folder: Path) -> Sequence[Path]:
        """One ONNX file."""
        write_qdq(network, table, folder / FILE)
        return (folder / FILE,)

    def lint(self, model: onnx.ModelProto) -> Sequence[Finding]:
        """Find weights that overflow on processors without VNNI."""
        return check(model)

    def load(self, artifact: Path) -> "OnnxRuntimeSession":
        """A session on the CPU, two threads or as many as there are."""
        return OnnxRuntimeSession(artifact)

    def command(self, artifact: Path, size: Size | None) -> str:  # noqa: ARG002
        """ONNX Runtime's own timing tool."""
        return f"onnxruntime_perf_test -e cpu -I {artifact.name}"


class OnnxRuntimeSession:
    """A file in ONNX Runtime, and the graph that it really runs."""

    def __init__(self, artifact: Path) -> None:
        runtime = installed("onnxruntime")
        self.name = f"onnxruntime {runtime.__version__}"
        with TemporaryDirectory() as folder:
            optimized = Path(folder) / "optimized.onnx"
            options = runtime.SessionOptions()
            options.optimized_model_filepath = str(optimized)
            options.log_severity_level = 3
            self._session = _session(runtime, artifact, options)
            self._ops = [node.op_type for node in onnx.load(optimized, load_external_data=False).graph.node]
        self._input = self._session.get_inputs()[0].name

    def __call__(self, image: Array) -> Array:
        """Run a [N, 3, H, W] batch."""
        return np.asarray(self._session.run(None, {self._input: image})[0])

    def integer_convs(self) -> int:
        """Convolutions that run in integers."""
        return sum(self.kernels().values())

    def kernels(self) -> Mapping[str, int]:
        """Count integer convolutions by operation: ONNX Runtime does not tell which of its kernels runs one."""
        return Counter(op for op in self._ops if op in INTEGER_CONVS)

    def saturates(self) -> bool:
        """Tell whether ONNX Runtime's kernels overflow here, measured once."""
        return _saturates()


@cache
def _saturates() -> bool:
    return saturates(OnnxRuntimeSession)


def _session(runtime: Any, artifact: Path, options: Any) -> Any:
    try:
        return runtime.InferenceSession(str(artifact), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise SrptqError(f"{artifact}: ONNX Runtime does not load it: {first_line(error)}") from error


TARGET = OnnxRuntimeTarget()
