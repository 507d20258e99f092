"""LiteRT (TensorFlow Lite): a .tflite file in int8, with the channels last."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from srptq_adapters.export_options import LiteRtExport
from srptq_adapters.targets.native_runtime import count_usable_cores, without_logs
from srptq_adapters.targets.runtime_import import import_runtime
from srptq_adapters.targets.xnnpack import OPS, RULES
from srptq_plugin.deploy.quant_table import QuantTable
from srptq_plugin.errors import SrptqError, first_line
from srptq_plugin.graph.fusion import Fusion
from srptq_plugin.graph.rules import Rules
from srptq_plugin.graph.types import Array, Size

FILE = "model_litert.tflite"
PACKAGE = "ai-edge-litert"
DEFAULTS = LiteRtExport()
CONVS = ("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "FULLY_CONNECTED")


class LiteRtTarget:
    """int8 affine activations per tensor, int8 symmetric weights per channel.

    A file takes images of any size or, with an input size, of that size only.
    """

    presets: Mapping[str, Rules] = {
        "default": replace(
            RULES,
            inputs=OPS | {"leaky_relu"},
            outputs=OPS | {"leaky_relu"},
            fusions=(
                *(Fusion(activation, behind="conv") for activation in ("relu6", "hardtanh", "clamp")),
                *(Fusion("relu", behind=op) for op in ("conv", "conv_transpose", "add", "sub", "mul")),
            ),
            # A kernel of integers gives integers alone.
            stored_once=True,
            # XNNPACK multiplies by steps of 1 / 256 in a leaky ReLU.
            leaky_multiplier_bits=8,
        )
    }

    def require(self) -> None:
        """Raise `MissingRuntimeError` without LiteRT, which ships the schema of its files."""
        import_runtime("ai_edge_litert", "litert")

    def check(self, network: onnx.ModelProto) -> None:
        """Translate the float network, which fails as the network of integers would."""
        _translator().translate(network, None)

    def write(self, network: Path, table: QuantTable, folder: Path, *, io: str = DEFAULTS.io) -> Sequence[Path]:
        """Write one file."""
        content = _translator().translate(onnx.load(network), table, integers=io == "int8")
        (folder / FILE).write_bytes(content)
        return (folder / FILE,)

    def load(self, artifact: Path) -> "LiteRtModel":
        """Load a file, or translate the float network and load that."""
        self.require()
        if artifact.suffix == ".onnx":
            return LiteRtModel(_translator().translate(onnx.load(artifact), None), artifact)
        return LiteRtModel(artifact.read_bytes(), artifact)

    def command(self, artifact: Path, size: Size, *, fixed: bool) -> str:  # noqa: ARG002
        """Return a command that times the file with LiteRT's own tool."""
        return f"benchmark_model --graph={artifact.name} --num_threads=$(nproc)"


def _translator() -> Any:
    import_runtime("ai_edge_litert", "litert")
    return import_module("srptq_adapters.targets.litert_layers")


class LiteRtModel:
    """A file in LiteRT's interpreter, on the CPU."""

    def __init__(self, content: bytes, path: Path) -> None:
        import_runtime("ai_edge_litert", "litert")
        module = import_module("ai_edge_litert.interpreter")
        self.name = f"litert {version(PACKAGE)}"
        try:
            with without_logs():
                self._interpreter = module.Interpreter(model_content=content, num_threads=count_usable_cores())
                self._interpreter.allocate_tensors()
        except (RuntimeError, ValueError) as error:
            raise SrptqError(f"{path}: LiteRT does not load it: {first_line(error)}") from error

    def __call__(self, image: Array) -> Array:
        """Run a [N, 3, H, W] batch, one image after the other."""
        return np.concatenate([self._run(part) for part in np.split(image, len(image))])

    def _run(self, image: Array) -> Array:
        source = self._interpreter.get_input_details()[0]
        pixels = encoded(np.ascontiguousarray(image.transpose(0, 2, 3, 1)), source)
        try:
            if tuple(source["shape"]) != pixels.shape:
                self._interpreter.resize_tensor_input(source["index"], pixels.shape, strict=True)
                self._interpreter.allocate_tensors()
            self._interpreter.set_tensor(source["index"], pixels)
            self._interpreter.invoke()
        except (RuntimeError, ValueError) as error:
            height, width = image.shape[2:]
            raise SrptqError(f"LiteRT does not run {height} x {width}: {first_line(error)}") from error
        result = self._interpreter.get_output_details()[0]
        values = decoded(self._interpreter.get_tensor(result["index"]), result)
        return np.ascontiguousarray(values.transpose(0, 3, 1, 2))

    def integer_convs(self) -> int:
        """Return how many convolutions run in integers."""
        return sum(self.kernels().values())

    def kernels(self) -> Mapping[str, int]:
        """Count integer convolutions by operation. Those with integer weights and an integer input have no others."""
        types = {tensor["index"]: tensor["dtype"] for tensor in self._interpreter.get_tensor_details()}
        operations = self._interpreter._get_ops_details()  # noqa: SLF001 - the only account of its operations
        integer = (op for op in operations if op["op_name"] in CONVS and types[op["outputs"][0]] == np.int8)
        return Counter(op["op_name"] for op in integer)

    def saturates(self) -> bool:
        """Return False: its kernels for x86 add products in 32 bits, with and without VNNI."""
        return False


def encoded(pixels: Array, details: Mapping[str, Any]) -> Any:
    """Return an image as the input that these details describe: floats, or integers of any type."""
    if details["dtype"] == np.float32:
        return pixels.astype(np.float32)
    (scale, zero), ends = details["quantization"], np.iinfo(details["dtype"])
    return np.clip(np.rint(pixels / np.float32(scale)) + zero, ends.min, ends.max).astype(details["dtype"])


def decoded(values: Any, details: Mapping[str, Any]) -> Array:
    """Return the real values of an output that these details describe."""
    if details["dtype"] == np.float32:
        return values
    scale, zero = details["quantization"]
    return (values.astype(np.float32) - zero) * np.float32(scale)


TARGET = LiteRtTarget()
