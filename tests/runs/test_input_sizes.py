"""Networks that take only multiples of a size, or only one size, through calibration, verification and analysis."""

from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from helpers import networks
from torch import Tensor, nn

from srptq_plugin.analysis.analyze import analyze
from srptq_plugin.analysis.subject import Subject
from srptq_plugin.errors import SrptqError
from srptq_plugin.evaluation.evaluate import evaluate
from srptq_plugin.evaluation.pairs import load_pairs
from srptq_plugin.pipeline import quantize
from srptq_plugin.runs.verify import SIZES

pytest.importorskip("torchao")
pytest.importorskip("onnxruntime")


def test_multiples_of_two_are_used_everywhere(tmp_path: Path) -> None:
    layers = [nn.PixelUnshuffle(2), networks.conv(12, 12), nn.ReLU(), networks.conv(12, 12), nn.PixelShuffle(2)]
    recipe = networks.recipe(8, "onnxruntime", calibration={"patches": 2, "size": 11})
    run = quantize(recipe, model=nn.Sequential(*layers), out=tmp_path / "run")
    assert run.summary["model"]["multiple"] == run.record.multiple == 2
    sizes = [(size["height"], size["width"]) for size in run.summary["verify"]["sizes"][: len(SIZES)]]
    assert sizes == [(48, 48), (34, 58), (76, 64), (64, 72)]
    assert Subject.of_run(run).patches.shape[2:] == (12, 12)
    odd = np.random.default_rng(0).integers(0, 256, (31, 33, 3), dtype=np.uint8)
    PIL.Image.fromarray(odd).save(tmp_path / "odd.png")
    assert {score.output for score in evaluate(run, tmp_path).scores} == {"float", "simulated", "runtime", "bicubic"}
    pairs = load_pairs(tmp_path, run.scale).usable
    assert analyze(Subject.of_run(run, patches=1), pairs, ("stage",)).quantized.psnr_y is not None
    with pytest.raises(SrptqError, match=r"tile 13.*multiples of 2 only; give 14"):
        evaluate(run, tmp_path, tile=13)


class FixedSize(nn.Module):
    """A network that adds a map of 20 x 26, and that may take single images only."""

    def __init__(self, *, one_image: bool) -> None:
        super().__init__()
        self.head, self.tail, self.map = networks.conv(3, 6), networks.conv(6, 3), nn.Buffer(torch.rand(1, 6, 20, 26))
        self.batch = 1 if one_image else -1

    def forward(self, x: Tensor) -> Tensor:
        assert self.batch in (-1, len(x))
        return self.tail((self.head(x).flatten(2) + self.map.flatten(2)).relu().reshape(self.batch, 6, 20, 26))


@pytest.mark.parametrize("one_image", [False, True])
def test_a_network_of_one_size_uses_it_everywhere(*, one_image: bool, tmp_path: Path) -> None:
    keys = {"calibration": {"patches": 3, "size": 12}, "equalize": True, "reconstruction": {"name": "pac", "epochs": 1}}
    torch.manual_seed(0)
    recipe, network = networks.recipe(8, "onnxruntime", **keys), FixedSize(one_image=one_image).eval()
    with pytest.raises(SrptqError, match="be quantized for one input size"):
        quantize(recipe, model=network, out=tmp_path / "run")
    run = quantize(recipe, model=network, out=tmp_path / "run", input_size=(1, 3, 20, 26))
    assert run.summary["verify"]["passed"]
    assert {(size["height"], size["width"]) for size in run.summary["verify"]["sizes"]} == {(20, 26)}
    subject = Subject.of_run(run, patches=3)
    assert subject.patches.shape == (3, 3, 20, 26)
    assert analyze(subject, kinds=("stage",)).quantized.noise < 1


def test_a_size_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    network = nn.Sequential(nn.PixelUnshuffle(4), nn.PixelShuffle(4))
    with pytest.raises(SrptqError, match="20 x 26, and Sequential takes multiples of 4; give 20 x 28"):
        quantize(networks.recipe(8, "onnxruntime"), model=network, out=tmp_path / "run", input_size=(1, 3, 20, 26))
