"""A file for a runtime that is not on this machine, read by ONNX Runtime: its numbers, and nobody's speed."""

from pathlib import Path

import numpy as np
from onnx import ModelProto

from srptq_adapters.targets.qdq_file import installed
from srptq_plugin.errors import SrptqError, first_line
from srptq_plugin.graph.types import Array


class ReferenceRuntime:
    """A Q/DQ model in ONNX Runtime without optimization, as a reference reading of it."""

    def __init__(self, model: ModelProto, path: Path, what: str) -> None:
        runtime = installed("onnxruntime")
        options = runtime.SessionOptions()
        options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level = 3
        self.name = f"onnxruntime {runtime.__version__}, reading {what}"
        try:
            self._session = runtime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
        except Exception as error:
            raise SrptqError(f"{path}: ONNX Runtime does not load it: {first_line(error)}") from error
        self._input = self._session.get_inputs()[0].name

    def __call__(self, image: Array) -> Array:
        """Run a [N, 3, H, W] batch."""
        return np.asarray(self._session.run(None, {self._input: image})[0])

    def integer_convs(self) -> None:
        """Unknown: the real runtime decides."""
