"""ONNX files of a few nodes, for images of any size."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

Array = NDArray[Any]


def node(kind: str, *inputs: str, to: str | Sequence[str] = "y", **attributes: Any) -> NodeProto:
    """Make a node that computes `y`, unless `to` names other values. Attributes may end with `_`."""
    outputs = [to] if isinstance(to, str) else list(to)
    attributes = {name.removesuffix("_"): value for name, value in attributes.items()}
    return helper.make_node(kind, list(inputs), outputs, name=f"node_{outputs[0]}", **attributes)


def model(nodes: Sequence[NodeProto], constants: Mapping[str, Array], channels: int = 8) -> ModelProto:
    """Make a model that computes `y` from an image `x`."""
    tensors = [numpy_helper.from_array(np.asarray(values), name) for name, values in constants.items()]
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, ("batch", channels, "height", "width"))
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph(list(nodes), "nodes", [image], [output], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def save(folder: Path, nodes: Sequence[NodeProto], constants: Mapping[str, Array], channels: int = 8) -> Path:
    """Write such a model to a folder."""
    path = folder / "model.onnx"
    onnx.save(model(nodes, constants, channels), path)
    return path


def rng(seed: int = 0) -> np.random.Generator:
    """Return a generator of random numbers."""
    return np.random.default_rng(seed)


def normal(*shape: int, seed: int = 0) -> Array:
    """Draw normal numbers in float32."""
    return rng(seed).standard_normal(shape).astype(np.float32)
