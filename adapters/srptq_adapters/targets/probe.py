"""A probe of the processor: one convolution shows whether kernels add two products in saturating 16 bits."""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, ValueInfoProto, helper, numpy_helper

from srptq_plugin.plugins.protocols import Runtime

if TYPE_CHECKING:
    from srptq_plugin.graph.types import Array

CHANNELS, OUTPUTS, SIDE, LARGEST, WEIGHT = 4, 16, 8, 255, 127
# Two products of 255 and 127 add up to 64770, and int16 ends at 32767: saturated, white comes out half as bright.


def saturates(load: Callable[[Path], Runtime]) -> bool:
    """Run a convolution with pairs of products beyond 16 bits, and tell whether they were cut off there."""
    image: Array = np.full((1, CHANNELS, SIDE, SIDE), LARGEST, np.float32)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "probe.onnx"
        onnx.save(probe_model(), path)
        output = load(path)(image)
    return bool(output.max() < 0.9 * LARGEST)


def probe_model() -> ModelProto:
    """Build a 1 x 1 convolution between Q/DQ that averages its channels: white stays white in exact arithmetic."""
    constants = {
        "step": np.float32(1),
        "zero": np.uint8(0),
        "weight": np.full((OUTPUTS, CHANNELS, 1, 1), WEIGHT, np.int8),
        "weight_step": np.full(OUTPUTS, 1 / (CHANNELS * WEIGHT), np.float32),
        "weight_zero": np.zeros(OUTPUTS, np.int8),
        "bias": np.zeros(OUTPUTS, np.int32),
        "bias_zero": np.zeros(OUTPUTS, np.int32),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["input", "step", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "step", "zero"], ["x"]),
        helper.make_node("DequantizeLinear", ["weight", "weight_step", "weight_zero"], ["w"], axis=0),
        helper.make_node("DequantizeLinear", ["bias", "weight_step", "bias_zero"], ["b"], axis=0),
        helper.make_node("Conv", ["x", "w", "b"], ["y"]),
        helper.make_node("QuantizeLinear", ["y", "step", "zero"], ["y_q"]),
        helper.make_node("DequantizeLinear", ["y_q", "step", "zero"], ["output"]),
    ]
    stored = [numpy_helper.from_array(np.asarray(values), name) for name, values in constants.items()]
    graph = helper.make_graph(nodes, "probe", [_end("input", CHANNELS)], [_end("output", OUTPUTS)], stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def _end(name: str, channels: int) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, channels, SIDE, SIDE))
