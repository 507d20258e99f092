"""ONNX Runtime and OpenVINO for benchmarks: they run a file, and count by their own account what runs in integers."""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np

from srptq_plugin.graph.types import Array

IMAGE_CHANNELS = 3


class Kernel(NamedTuple):
    """One operation that a runtime executed."""

    macs: int
    """Multiplications of a convolution or a matrix product. 0 for any other operation."""
    size: int
    """The number of values that it writes."""
    integer: bool
    """It computes in integers."""
    stored: bool
    """It writes integers."""


def shares(kernels: Sequence[Kernel], sides: tuple[int, int]) -> dict[str, float]:
    """Return the shares of multiplications and of large tensors in integers. A large one is no smaller than the image.

    >>> shares([Kernel(30, 48, True, True), Kernel(10, 48, False, False)], (4, 4))
    {'macs': 0.75, 'tensors': 0.5}
    """
    large = [kernel for kernel in kernels if kernel.size >= IMAGE_CHANNELS * sides[0] * sides[1]]
    macs = sum(kernel.macs for kernel in kernels)
    return {
        "macs": round(sum(kernel.macs for kernel in kernels if kernel.integer) / max(macs, 1), 4),
        "tensors": round(sum(kernel.stored for kernel in large) / max(len(large), 1), 4),
    }


class OnnxRuntime:
    """A file in ONNX Runtime."""

    def __init__(self, path: Path, threads: int) -> None:
        import onnxruntime  # noqa: PLC0415

        self._module, self.path, self.threads = onnxruntime, path, threads
        self._session = self._start(self._options())

    def _options(self) -> Any:
        options = self._module.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.log_severity_level = 3
        return options

    def _start(self, options: Any) -> Any:
        return self._module.InferenceSession(str(self.path), options, providers=["CPUExecutionProvider"])

    def __call__(self, image: Array) -> Array:
        """Run a batch."""
        return np.asarray(self._session.run(None, {self._session.get_inputs()[0].name: image})[0])

    def integer_shares(self, sides: tuple[int, int]) -> dict[str, float]:
        """Return the shares of multiplications and of large tensors in integers, from a profile of one run."""
        with TemporaryDirectory() as folder:
            options = self._options()
            options.enable_profiling = True
            options.add_session_config_entry("session.disable_prepacking", "1")  # a profile lacks prepacked weights
            options.profile_file_prefix = str(Path(folder) / "profile")
            session = self._start(options)
            session.run(None, {session.get_inputs()[0].name: np.zeros((1, IMAGE_CHANNELS, *sides), np.float32)})
            events: list[dict[str, Any]] = json.loads(Path(session.end_profiling()).read_text())
        ran = [event for event in events if event["name"].endswith("_kernel_time")]
        return shares([_ort_kernel(event["args"]) for event in ran], sides)


INTEGERS = ("uint8", "int8")
_WEIGHT_INDEX = {"QLinearConv": 3, "QLinearMatMul": 3, "QGemm": 3, "MatMulIntegerToFloat": 1}
MULTIPLYING = ("Conv", "FusedConv", "NhwcFusedConv", "ConvTranspose", "MatMul", "FusedMatMul", "Gemm", *_WEIGHT_INDEX)


def _ort_kernel(event: Mapping[str, Any]) -> Kernel:
    inputs = [next(iter(entry.items())) for entry in event.get("input_type_shape", [])]
    outputs = [next(iter(entry.items())) for entry in event.get("output_type_shape", [])]
    kind, size = event["op_name"], max((math.prod(shape) for _, shape in outputs), default=0)
    macs = _ort_macs(kind, inputs, outputs) if kind in MULTIPLYING else 0
    integer = bool(inputs) and inputs[0][0] in INTEGERS
    stored = any(kind in INTEGERS and math.prod(shape) == size for kind, shape in outputs)
    return Kernel(macs, size, integer, stored)


def _ort_macs(kind: str, inputs: Sequence[Any], outputs: Sequence[Any]) -> int:
    index = _WEIGHT_INDEX.get(kind, 1)
    weight = inputs[index][1] if index < len(inputs) else [1]
    if kind == "ConvTranspose":
        return math.prod(inputs[0][1]) * math.prod(weight[1:])
    if "Conv" in kind:
        return math.prod(outputs[0][1]) * math.prod(weight[1:])
    return math.prod(outputs[0][1]) * inputs[0][1][-1]


class OpenVino:
    """A file in OpenVINO."""

    def __init__(self, path: Path, threads: int) -> None:
        import openvino  # noqa: PLC0415

        self._core, self.path = openvino.Core(), path
        self._config = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
        self._model = self._core.compile_model(path, "CPU", self._config)

    def __call__(self, image: Array) -> Array:
        """Run a batch."""
        return np.asarray(self._model(image)[0])

    def integer_shares(self, sides: tuple[int, int]) -> dict[str, float]:
        """Return the shares of multiplications and of large tensors in integers, from the execution graph of a size."""
        model = self._core.read_model(self.path)
        model.reshape([1, IMAGE_CHANNELS, *sides])
        compiled = self._core.compile_model(model, "CPU", self._config)
        return shares(list(_openvino_kernels(compiled.get_runtime_model().get_ops())), sides)


def _openvino_kernels(operations: Sequence[Any]) -> Iterator[Kernel]:
    for operation in operations:
        info = {key: str(operation.get_rt_info()[key].value) for key in ("layerType", "runtimePrecision")}
        if info["layerType"] in ("Const", "Input", "Output", "Reorder", "Convert"):
            continue
        stored = str(operation.get_rt_info()["outputPrecisions"].value).split(",")[0] in ("u8", "i8")
        size = math.prod(operation.get_output_shape(0))
        macs = _OPENVINO_MACS.get(info["layerType"], _none)(operation)
        yield Kernel(macs, size, info["runtimePrecision"] in ("u8", "i8"), stored)


def _none(_operation: Any) -> int:
    return 0


def _of_convolution(operation: Any) -> int:
    output, weight = operation.get_output_shape(0), operation.input_value(1).get_shape()
    return math.prod(output) * math.prod(weight) // output[1]


def _of_deconvolution(operation: Any) -> int:
    image, weight = operation.input_value(0).get_shape(), operation.input_value(1).get_shape()
    return math.prod(image) * math.prod(weight) // image[1]


def _of_product(operation: Any) -> int:
    return math.prod(operation.get_output_shape(0)) * operation.input_value(0).get_shape()[-1]


_OPENVINO_MACS: Mapping[str, Callable[[Any], int]] = {
    "Convolution": _of_convolution,
    "Deconvolution": _of_deconvolution,
    "MatMul": _of_product,
    "FullyConnected": _of_product,
}
RUNTIMES = {"onnxruntime": OnnxRuntime, "openvino": OpenVino}
