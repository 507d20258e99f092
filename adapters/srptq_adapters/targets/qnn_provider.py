"""ONNX Runtime's QNN provider: Qualcomm's HTP, which its package emulates on other processors."""

import re
from functools import cache
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto

from srptq_adapters.targets.native_runtime import logs_in, without_logs
from srptq_adapters.targets.onnx_graph import OnnxGraph
from srptq_adapters.targets.runtime_import import import_runtime
from srptq_plugin.errors import SrptqError, first_line
from srptq_plugin.graph.types import Array

PROVIDER = "QNNExecutionProvider"
ARCHITECTURE = 73
"""The version of HTP: Snapdragon 8 Gen 2."""
ACTIVATION = "Relu"
ERRORS = 3
"""The level of ONNX Runtime's log that has errors only."""
REFUSED = re.compile(r"Unsupported nodes in QNN EP: \{ name: ([^,]+),")


class QnnProvider:
    """A Q/DQ file in ONNX Runtime, with every operation on HTP."""

    hardware = f"Qualcomm's HTP v{ARCHITECTURE}"

    def __init__(self, artifact: Path) -> None:
        self._package = import_runtime("onnxruntime_qnn", "qnn")
        self._runtime, self._devices = _provider(self._package)
        self.name = f"onnxruntime {self._runtime.__version__} with QNN"
        self._artifact, self._model = artifact, onnx.load(artifact)
        self._session, self._shape = None, ()

    def __call__(self, image: Array) -> Array:
        """Run a [N, 3, H, W] batch. HTP takes one size, so that another one compiles the file again."""
        if image.shape != self._shape:
            self._session, self._shape = self._compiled(image.shape), image.shape
        session: Any = self._session
        with without_logs():
            return np.asarray(session.run(None, {session.get_inputs()[0].name: image})[0])

    def _compiled(self, shape: tuple[int, ...]) -> Any:
        options = self._runtime.SessionOptions()
        options.log_severity_level = ERRORS
        # An operation that the provider refuses is an error, and never runs on the CPU.
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        settings = {
            "backend_path": str(self._package.get_qnn_htp_path()),
            "htp_arch": str(ARCHITECTURE),
            "offload_graph_io_quantization": "0",
        }
        with TemporaryFile() as log:
            try:
                with logs_in(log):
                    options.add_provider_for_devices(self._devices, settings)
                    return self._runtime.InferenceSession(_at_size(self._model, shape).SerializeToString(), options)
            except Exception as error:
                log.seek(0)
                refused = REFUSED.search(log.read().decode(errors="replace"))
                reason = f"HTP takes no operation that reads {refused[1]}" if refused else first_line(error)
                raise SrptqError(
                    f"{self._artifact}: {reason}; set export.format to encodings, for Qualcomm's own converter"
                ) from error

    def integer_convs(self) -> int:
        """Count convolutions between Q/DQ pairs: the provider has refused the file if one of them is not on HTP."""
        graph = OnnxGraph(self._model.graph)
        return sum(_is_quantized(graph, node) for node in graph.of("Conv", "ConvTranspose"))


def _is_quantized(graph: OnnxGraph, conv: onnx.NodeProto) -> bool:
    readers = graph.readers[conv.output[0]]
    if len(readers) == 1 and readers[0].op_type == ACTIVATION:
        readers = graph.readers[readers[0].output[0]]
    is_read = all(map(graph.is_dequantized, conv.input))
    return is_read and len(readers) == 1 and readers[0].op_type == "QuantizeLinear"


def _at_size(model: ModelProto, shape: tuple[int, ...]) -> ModelProto:
    """Return a model for images of one size."""
    fixed = ModelProto()
    fixed.CopyFrom(model)
    for dimension, size in zip(fixed.graph.input[0].type.tensor_type.shape.dim, shape, strict=True):
        dimension.dim_value = size
    for dimension in fixed.graph.output[0].type.tensor_type.shape.dim:
        if dimension.dim_param:
            dimension.Clear()
    return fixed


@cache
def _provider(package: Any) -> tuple[Any, list[Any]]:
    """Return ONNX Runtime and the devices of the provider, which a process registers once."""
    runtime = import_runtime("onnxruntime", "qnn")
    with without_logs():
        if not _devices(runtime):
            runtime.register_execution_provider_library(PROVIDER, package.get_library_path())
        return runtime, _devices(runtime)


def _devices(runtime: Any) -> list[Any]:
    return [device for device in runtime.get_ep_devices() if device.ep_name == PROVIDER]
