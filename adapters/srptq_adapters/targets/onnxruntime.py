"""ONNX Runtime on CPUs: Q/DQ ONNX with uint8 affine activations.

ONNX Runtime fuses each operation between Q/DQ pairs into an operation on integers: QLinearConv, QLinearAdd,
QLinearMul, QLinearConcat, QLinearSigmoid, QLinearLeakyRelu, QLinearAveragePool, QLinearGlobalAveragePool,
QLinearMatMul. Each of them rounds its output, so `full` quantizes on either side of all of them.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
from onnx import helper

from srptq_adapters.targets.fusible_operations import to_fusible_operations
from srptq_adapters.targets.overflow_rules import check
from srptq_adapters.targets.probe import saturates
from srptq_adapters.targets.runtime_import import import_runtime
from srptq_plugin.deploy.qdq import Placer, stored_sites
from srptq_plugin.deploy.quant_table import QuantTable
from srptq_plugin.errors import SrptqError, first_line
from srptq_plugin.graph.rules import Rules
from srptq_plugin.graph.types import Array, Reals, Size
from srptq_plugin.plugins.protocols import Finding
from srptq_plugin.quantization.grid import IntGrid

FILE = "model_onnxruntime.onnx"
OPS = frozenset({"conv", "add", "mul", "scale", "cat", "sigmoid", "leaky_relu", "avg_pool", "global_mean", "matmul"})
BITS = frozenset(range(2, 9))
"""Integers of fewer than 8 bits are stored in 8, and a Clip keeps them in range."""
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
            # QLinearSoftmax of ONNX Runtime 1.31.1 does not saturate: outputs beyond the largest integer wrap around.
            float_inputs=frozenset({"softmax"}),
            # QLinearConv adds an int32 bias to its products, at the scale of the input times the scale of the weight.
            integer_bias=True,
            relu_by_range=True,
            # MLAS without VNNI: `vpmaddubsw` adds two uint8 * int8 products in saturating int16.
            pair_sum_bits=16,
            integer_bits=BITS,
        )
    }

    def require(self) -> None:
        """Accept every machine: writing needs ONNX only."""

    def write(self, network: Path, table: QuantTable, folder: Path) -> Sequence[Path]:
        """Write one Q/DQ file."""
        model = Placer(onnx.load(network), table).place()
        to_fusible_operations(model)
        onnx.save(model, folder / FILE)
        return (folder / FILE,)

    def lint(self, model: onnx.ModelProto) -> Sequence[Finding]:
        """Find weights that overflow on processors without VNNI."""
        return check(model)

    def load(self, artifact: Path) -> "OnnxRuntimeSession":
        """Start a session on the CPU."""
        return OnnxRuntimeSession(artifact)

    def inspect(self, artifacts: Sequence[Path], table: QuantTable) -> "OnnxRuntimeInspection":
        """Start a session that returns the integers of every site as well."""
        return OnnxRuntimeInspection(artifacts[0], table)

    def command(self, artifact: Path, size: Size, *, fixed: bool) -> str:  # noqa: ARG002
        """Return a command that times the file with ONNX Runtime's own tool."""
        return f"onnxruntime_perf_test -e cpu -I {artifact.name}"


class OnnxRuntimeSession:
    """A file in ONNX Runtime, with the optimized graph that it runs."""

    def __init__(self, artifact: Path) -> None:
        runtime = import_runtime("onnxruntime")
        self.name = f"onnxruntime {runtime.__version__}"
        with TemporaryDirectory() as folder:
            # Only the optimized graph tells which convolutions were fused with their Q/DQ pairs.
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
        """Return how many convolutions run in integers."""
        return sum(self.kernels().values())

    def kernels(self) -> Mapping[str, int]:
        """Count integer convolutions by operation: ONNX Runtime does not tell which of its kernels runs one."""
        return Counter(op for op in self._ops if op in INTEGER_CONVS)

    def saturates(self) -> bool:
        """Tell whether ONNX Runtime's kernels overflow here, measured once."""
        return _saturates()


class OnnxRuntimeInspection:
    """A session whose further outputs are the integer tensors of the sites.

    Its kernels write these tensors anyway, so the same operations are fused.
    """

    def __init__(self, artifact: Path, table: QuantTable) -> None:
        runtime, model = import_runtime("onnxruntime"), onnx.load(artifact)
        self._sites = stored_sites(model, table.plan.sites)
        tensors = {site.tensor: site.kind for site in self._sites.values()}
        model.graph.output.extend(helper.make_tensor_value_info(name, kind, None) for name, kind in tensors.items())
        options = runtime.SessionOptions()
        options.log_severity_level = 3
        self._session = _session(runtime, artifact, options, model.SerializeToString())
        self._names = [output.name for output in self._session.get_outputs()]
        self._input = self._session.get_inputs()[0].name

    def __call__(self, image: Array) -> tuple[Array, Mapping[str, Reals]]:
        """Run a batch. Return the output, and the tensors by site."""
        values = dict(zip(self._names, self._session.run(None, {self._input: image}), strict=True))
        return values[self._names[0]], {name: site.real(values[site.tensor]) for name, site in self._sites.items()}


@cache
def _saturates() -> bool:
    return saturates(OnnxRuntimeSession)


def _session(runtime: Any, artifact: Path, options: Any, content: bytes | None = None) -> Any:
    try:
        return runtime.InferenceSession(content or str(artifact), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise SrptqError(f"{artifact}: ONNX Runtime does not load it: {first_line(error)}") from error


TARGET = OnnxRuntimeTarget()
