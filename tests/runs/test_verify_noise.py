"""The limit of verifying for a network whose simulation is far from itself, in another order of sums."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from helpers import networks
from helpers.command_line import returning
from onnx import ModelProto, numpy_helper
from torch import nn

from srptq_plugin.pipeline import quantize
from srptq_plugin.runs.run import Run
from srptq_plugin.runs.verify import LEAST_PSNR, OWN_SLACK, verify

pytest.importorskip("torchao")
pytest.importorskip("onnxruntime")

QDQ = "model_onnxruntime.onnx"
DEPTH, FEATURES = 16, 16


def noisy_network() -> nn.Module:
    """Build a deep network with such a wide output that a flipped rounding in it costs several levels."""
    torch.manual_seed(0)
    layers: list[nn.Module] = [networks.conv(3, FEATURES)]
    for _ in range(DEPTH):
        layers += [nn.ReLU(), networks.conv(FEATURES, FEATURES)]
    tail = networks.conv(FEATURES, 12)
    module = nn.Sequential(*layers, nn.ReLU(), tail, nn.PixelShuffle(2)).eval()
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight)
            nn.init.zeros_(layer.bias)  # pyright: ignore[reportArgumentType]
    tail.weight.data /= module(networks.images(2)).std()
    return module


@pytest.fixture(scope="module")
def noisy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    recipe = networks.recipe(8, "onnxruntime", calibration={"patches": 2, "size": 12})
    return quantize(recipe, model=noisy_network(), out=tmp_path_factory.mktemp("noisy") / "run").folder


@pytest.fixture
def copied(noisy: Path, tmp_path: Path) -> Path:
    return shutil.copytree(noisy, tmp_path / "run")


def test_noise_of_the_simulation_lowers_the_limit(noisy: Path) -> None:
    report = verify(Run.open(noisy))
    own, least = report["own_psnr"], report["least_psnr"]
    assert report["psnr"] < LEAST_PSNR
    assert own < LEAST_PSNR
    assert least == own - OWN_SLACK
    assert (report["passed"], report["problems"]) == (True, [])
    assert f"differs from itself by {own:.1f} dB, so its own noise sets the limit: {least:.1f} dB" in report["note"]


def shift_read_zero_point(model: ModelProto) -> None:
    """Change a zero point where integers are read, but not where they are written."""
    read = next(node for node in model.graph.node if node.op_type == "DequantizeLinear" and "input" in node.input[2])
    values = next(tensor for tensor in model.graph.initializer if tensor.name == read.input[2])
    wrong = numpy_helper.to_array(values).astype(np.int64) + 8
    model.graph.initializer.append(
        numpy_helper.from_array(wrong.astype(numpy_helper.to_array(values).dtype), "wrong_zero_point")
    )
    read.input[2] = "wrong_zero_point"


def damage_weights(model: ModelProto) -> None:
    """Exchange the output channels of a convolution in the middle of the network."""
    weights = [tensor for tensor in model.graph.initializer if tensor.dims == [FEATURES, FEATURES, 3, 3]]
    middle = weights[DEPTH // 2]
    values = numpy_helper.to_array(middle)
    middle.CopyFrom(numpy_helper.from_array(np.roll(values, 1, axis=0), middle.name))


def stretch_scale(model: ModelProto) -> None:
    """Multiply the scale of a tensor."""
    scale = next(tensor for tensor in model.graph.initializer if tensor.name == "input_8bit_scale")
    scale.CopyFrom(numpy_helper.from_array(np.float32(1.3) * numpy_helper.to_array(scale), scale.name))


@pytest.mark.parametrize("damage", [shift_read_zero_point, damage_weights, stretch_scale])
def test_a_damaged_file_of_a_noisy_network_fails(copied: Path, damage: Callable[[ModelProto], None]) -> None:
    model = onnx.load(copied / QDQ)
    damage(model)
    onnx.save(model, copied / QDQ)
    report = verify(Run.open(copied))
    assert not report["passed"]
    limit = f"at 8 bits at least {report['least_psnr']:.4g} dB, 3 dB below its own noise"
    assert f"simulation and runtime differ: {report['psnr']:.1f} dB, {limit}" in report["problems"]


@pytest.mark.parametrize(("slack", "passed"), [(OWN_SLACK - 0.5, True), (OWN_SLACK + 0.5, False)])
def test_three_decibels_below_its_noise_pass(
    noisy: Path, monkeypatch: pytest.MonkeyPatch, slack: float, *, passed: bool
) -> None:
    own = verify(Run.open(noisy))["psnr"] + slack
    monkeypatch.setattr("srptq_plugin.runs.verify.own_psnr", returning(own))
    assert verify(Run.open(noisy))["passed"] is passed
