from pathlib import Path
from typing import Any

import torch
from torch import fx

from .prepare_by_platform import BackendType
from .utils import deepcopy_graphmodule
from .utils.registry import BACKEND_DEPLOY_FUNCTION

qmin_max_dict: dict[str, tuple[int, int]] = {}


def convert_onnx(model: fx.GraphModule, *, input_shape_dict: Any, onnx_model_path: str, **_: Any) -> None:
    images = tuple(torch.rand(shape) for shape in input_shape_dict.values())
    torch.onnx.export(model, images, onnx_model_path, input_names=[*input_shape_dict], opset_version=13)


BACKEND_DEPLOY_FUNCTION.update({backend: [convert_onnx] for backend in BackendType})


def convert_deploy(
    model: fx.GraphModule,
    backend_type: BackendType,
    input_shape_dict: Any,
    output_path: str = "./",
    model_name: str = "mqbench_qmodel",
) -> None:
    copied = deepcopy_graphmodule(model)
    path = str(Path(output_path) / f"{model_name}.onnx")
    for function in BACKEND_DEPLOY_FUNCTION[backend_type]:
        function(copied, input_shape_dict=input_shape_dict, onnx_model_path=path, model_name=model_name)
