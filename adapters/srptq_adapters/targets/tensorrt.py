"""TensorRT: explicit Q/DQ ONNX in int8, with symmetric activations."""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import onnx

from srptq_adapters.export_options import TensorRTExport
from srptq_adapters.targets.half_precision import to_half_precision
from srptq_adapters.targets.reference_runtime import ReferenceRuntime
from srptq_adapters.targets.tensorrt_rules import check
from srptq_plugin.deploy.onnx_export import OnnxNetwork
from srptq_plugin.deploy.qdq import Placer
from srptq_plugin.deploy.quant_table import QuantTable
from srptq_plugin.graph.fusion import Fusion
from srptq_plugin.graph.rules import Rules
from srptq_plugin.graph.types import Size
from srptq_plugin.plugins.protocols import Finding
from srptq_plugin.quantization.grid import IntGrid

FILE, CACHE = "model_tensorrt.onnx", "model_tensorrt.cache"
DEFAULTS = TensorRTExport()
HEADER = "TRT-100000-EntropyCalibration2"
BITS = frozenset({8})
HALF, HALF_BITS = "fp16", 11


class TensorRtTarget:
    """8-bit integers around 0. Convolutions also compute the activation and the add that follow them."""

    presets: Mapping[str, Rules] = {
        "default": Rules(
            weights=IntGrid(8, signed=True, symmetric=True, narrow_range=True, channel_axis=0),
            activations=IntGrid(8, signed=True, symmetric=True),
            weight_bits=BITS,
            activation_bits=BITS,
            inputs=frozenset({"conv", "conv_transpose", "add"}),
            outputs=frozenset(),
            # TensorRT fuses convolution, add and ReLU if Q/DQ stands on the skip alone. A pair on the other branch
            # breaks the fusion (rule TRT008 of lint). A concat of one scale only copies integers (TRT012).
            fusions=(Fusion("relu"), Fusion("add", behind="conv", through=frozenset({"scale", "add"}))),
            shared_scales=frozenset({"cat"}),
        )
    }

    def require(self) -> None:
        """Accept every machine: writing needs ONNX only."""

    def adapt(self, rules: Rules, *, float: str = DEFAULTS.float, **_options: object) -> Rules:  # noqa: A002
        """Return the rules with scales of half precision, if the file has them."""
        if float != HALF:
            return rules
        weights, activations = (replace(grid, half_scale=True) for grid in (rules.weights, rules.activations))
        return replace(rules, weights=weights, activations=activations, float_bits=HALF_BITS)

    def write(
        self,
        network: Path,
        table: QuantTable,
        folder: Path,
        *,
        float: str = DEFAULTS.float,  # noqa: A002
        calibration_cache: bool = DEFAULTS.calibration_cache,
    ) -> Sequence[Path]:
        """Write one Q/DQ file, and with `calibration_cache` the scales that TensorRT 10 reads with the float file."""
        model = onnx.load(network)
        placed = Placer(model, table).place()
        if float == HALF:
            to_half_precision(placed)
        onnx.save(placed, folder / FILE)
        if calibration_cache:
            (folder / CACHE).write_text(cache(model, table), encoding="ascii")
        return (folder / FILE, folder / CACHE) if calibration_cache else (folder / FILE,)

    def lint(self, model: onnx.ModelProto) -> Sequence[Finding]:
        """Check a model against TensorRT's rules for explicit quantization."""
        return check(model)

    def load(self, artifact: Path) -> ReferenceRuntime:
        """Read a file in ONNX Runtime: TensorRT itself needs an NVIDIA GPU."""
        return ReferenceRuntime(onnx.load(artifact), artifact, "TensorRT's file")

    def command(self, artifact: Path, size: Size, *, fixed: bool) -> str:
        """Return a command that builds the engine and times it with TensorRT's own tool."""
        batch, channels, height, width = size
        ends = {} if fixed else {"min": "64x64", "opt": f"{height}x{width}", "max": "1088x1920"}
        shapes = "".join(f" --{end}Shapes=input:{batch}x{channels}x{sides}" for end, sides in ends.items())
        return f"trtexec --onnx={artifact.name} --stronglyTyped{shapes} --saveEngine={artifact.stem}.plan"


def cache(model: onnx.ModelProto, table: QuantTable) -> str:
    """Return a calibration cache: a line per tensor of the float file, with its scale as big-endian float32 in hex."""
    network = OnnxNetwork(model)
    scales = {
        network.value(site): float(table.qparams[site.name].scale)
        for site in table.plan.sites
        if site.role == "activation"
    }
    return "\n".join([HEADER, *(f"{name}: {struct.pack('>f', scale).hex()}" for name, scale in scales.items())]) + "\n"


TARGET = TensorRtTarget()
