"""ONNX files as torch's exporters write them."""

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

DYNAMIC = torch.export.Dim.AUTO


def export(module: nn.Module, path: Path, exporter: str, size: tuple[int, int] = (24, 32)) -> Path:
    """Write a network as one of torch's exporters does, for any size unless it is `fixed`."""
    image = torch.zeros(1, 3, *size)
    axes = {"x": {0: "batch", 2: "height", 3: "width"}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if exporter == "dynamo":
            shapes = ({0: DYNAMIC, 2: DYNAMIC, 3: DYNAMIC},)
            torch.onnx.export(module, (image,), path, dynamo=True, dynamic_shapes=shapes, verbose=False)
        elif exporter == "legacy":
            names: dict[str, Any] = {"input_names": ["x"], "output_names": ["y"], "dynamic_axes": axes}
            torch.onnx.export(module, (image,), path, dynamo=False, opset_version=17, **names)
        else:
            torch.onnx.export(module, (image,), path, dynamo=False, opset_version=13)
    return path
