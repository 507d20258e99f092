"""Written files, run as they are: without a runtime's optimization, which would change what a test looks at."""

import math
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[Any]
Run = Callable[[Tensor], Array]


def in_onnxruntime(path: Path) -> Run:
    session = _session(onnx.load(path))
    name = session.get_inputs()[0].name
    return lambda image: session.run(None, {name: image.numpy()})[0]


def in_openvino(path: Path) -> Run:
    openvino = pytest.importorskip("openvino")
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda image: compiled(image.numpy())[0]


def integers(path: Path, image: Tensor) -> Iterator[tuple[Array, Array]]:
    """Whatever a Q/DQ file turns into integers: the scale, and the integers that are read."""
    model = onnx.load(path)
    clips = {node.input[0]: node.output[0] for node in model.graph.node if node.op_type == "Clip"}
    found = [node for node in model.graph.node if node.op_type == "QuantizeLinear"]
    names = [(node.input[1], clips.get(node.output[0], node.output[0])) for node in found]
    del model.graph.output[:]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in dict.fromkeys(chain(*names)))
    session = _session(model)
    for pair in names:
        scale, values = session.run(list(pair), {session.get_inputs()[0].name: image.numpy()})
        yield scale.reshape(-1), values


def _session(model: onnx.ModelProto) -> Any:
    runtime = pytest.importorskip("onnxruntime")
    options = runtime.SessionOptions()
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    return runtime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])


def decibels(found: Array, wanted: Array) -> float:
    """How small the difference is beside the range of what was wanted; infinite where there is none."""
    error = float(np.square(found.astype(np.float64) - wanted).mean())
    return 10 * math.log10(float(np.ptp(wanted)) ** 2 / error) if error else float("inf")
