"""A numerical check of files for runtimes that are not on this machine. Its speed means nothing."""

from pathlib import Path

import numpy as np
from onnx import ModelProto

from srptq_adapters.targets.runtime_import import import_runtime
from srptq_plugin.errors import SrptqError, first_line
from srptq_plugin.graph.types import Array


class ReferenceRuntime:
    """A Q/DQ model in ONNX Runtime without optimization: every operation in float, between Q and DQ."""

    def __init__(self, model: ModelProto, path: Path, what: str) -> None:
        runtime = import_runtime("onnxruntime")
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
        """Return None: only the real runtime knows."""
