"""Runtimes for exported files, without the optimizations that would change the computed numbers."""

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
    """Yield the scale and the integers of each quantized tensor of a Q/DQ file."""
    model = onnx.load(path)
    # Below 8 bits a Clip follows the QuantizeLinear, and its output is what DequantizeLinear reads.
    clips = {node.input[0]: node.output[0] for node in model.graph.node if node.op_type == "Clip"}
    quantizers = [node for node in model.graph.node if node.op_type == "QuantizeLinear"]
    names = [(node.input[1], clips.get(node.output[0], node.output[0])) for node in quantizers]
    del model.graph.output[:]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in dict.fromkeys(chain(*names)))
    session = _session(model)
    for pair in names:
        scale, values = session.run(list(pair), {session.get_inputs()[0].name: image.numpy()})
        yield scale.reshape(-1), values


def decibels(output: Array, expected: Array) -> float:
    """Return the PSNR of an output, with the range of the expected output as its peak."""
    error = float(np.square(output.astype(np.float64) - expected).mean())
    return 10 * math.log10(float(np.ptp(expected)) ** 2 / error) if error else float("inf")


def _session(model: onnx.ModelProto) -> Any:
    runtime = pytest.importorskip("onnxruntime")
    options = runtime.SessionOptions()
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    return runtime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
