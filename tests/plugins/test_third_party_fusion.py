"""A fusion of a third-party target, from its one file to what it writes."""

from pathlib import Path
from types import ModuleType

import onnx
import pytest
import torch
from helpers import networks
from torch import Tensor, nn

from srptq_plugin import Recipe, Registry, quantize
from srptq_plugin.recipes.recipe_files import RecipeLayer

pytest.importorskip("onnxruntime")


class Clamped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head, self.body = networks.conv(3, networks.FEATURES), networks.conv(networks.FEATURES, networks.FEATURES)
        self.grow, self.shuffle = networks.conv(networks.FEATURES, 12), nn.PixelShuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.shuffle(self.grow(torch.clamp(self.body(torch.clamp(self.head(x), 0, 6)), 0, 6)))


def test_an_outside_target_fuses_conv_and_clip(tiny_npu: ModuleType, tmp_path: Path) -> None:
    layer = {"target": "tiny-npu", "calibration": {"patches": 4, "size": 24}}
    recipe = Recipe.from_layers([RecipeLayer("test", layer)])
    torch.manual_seed(0)
    run = quantize(recipe, model=Clamped().eval(), out=tmp_path / "run", registry=Registry([tiny_npu]))
    assert run.summary["verify"]["passed"]
    graph = onnx.load(run.folder / "model_tiny_npu.onnx").graph
    readers = {value: node.op_type for node in graph.node for value in node.input}
    clips = [node for node in graph.node if node.op_type == "Clip" and readers[node.output[0]] == "QuantizeLinear"]
    assert len(clips) == 2
    behind_convs = [readers[node.output[0]] for node in graph.node if node.op_type == "Conv"]
    assert behind_convs == ["Clip", "Clip", "QuantizeLinear"]
