"""Networks on the command line: a checkpoint alone, and mistakes with one."""

from pathlib import Path

import pytest
import torch
from helpers.command_line import Srptq, refused

from srptq_plugin.models.loading import load_model
from srptq_plugin.models.srresnet import SRResNet

COST = ("cost", "--recipe", "paper-w4a4", "--input-size", "1x3x16x16")


@pytest.fixture
def checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the path of an SRResNet's checkpoint, relative to the working folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights").mkdir()
    path = Path("weights", "x3.pth")
    torch.save({"params": SRResNet(3, features=4, blocks=1).state_dict()}, path)
    return str(path)


def test_a_checkpoint_alone_names_the_network(srptq: Srptq, checkpoint: str) -> None:
    outputs = {
        srptq(*COST, *network).out
        for network in (
            (checkpoint,),
            ("--model", checkpoint),
            ("--model", checkpoint, "--model-args", "upscale=3"),
            ("--model", "srresnet", "--weights", checkpoint),
        )
    }
    (output,) = outputs
    assert "srresnet" in output
    assert "upscales by 3" in output


def test_a_checkpoint_with_weights_is_refused(srptq: Srptq, checkpoint: str) -> None:
    result = srptq(*COST, "--model", checkpoint, "--weights", "other.pth")
    refused(result, f"--model {checkpoint}: a file brings its own weights; leave --weights other.pth out")


def test_an_unknown_checkpoint_gets_a_hint(srptq: Srptq, checkpoint: str) -> None:
    torch.save({"conv.weight": torch.zeros(3)}, checkpoint)
    hint = f"give --model FAMILY or --model package.module:factory, and --weights {checkpoint}"
    refused(srptq(*COST, checkpoint), "no family recognizes it", "it has 1 tensor: conv.weight [3]", hint)


def test_a_checkpoint_of_other_sizes_is_refused(srptq: Srptq, checkpoint: str) -> None:
    result = srptq(*COST, checkpoint, "--model-args", "upscale=2")
    refused(result, "srresnet: upscale=2 was given, but the weights have 3; leave it out")


def test_an_onnx_file_names_the_network(srptq: Srptq, checkpoint: str) -> None:
    network = load_model(checkpoint).module
    torch.onnx.export(network, (torch.zeros(1, 3, 16, 16),), "x3.onnx", dynamo=True, verbose=False)
    output = srptq(*COST, "x3.onnx").out
    assert "x3.onnx" in output
    assert "upscales by 3" in output
    refused(srptq(*COST, "x3.onnx", "--model-args", "sigma=1"), "x3.onnx: `sigma` is no input of the graph")
    refused(srptq(*COST, "--model", "gone.onnx"), "gone.onnx: no such file; give an ONNX file")


def test_a_checkpoint_in_part_needs_an_option(srptq: Srptq, checkpoint: str) -> None:
    torch.save({"weight": torch.ones(3, 3, 3, 3), "extra": torch.zeros(1)}, checkpoint)
    arguments = ("in_channels=3", "out_channels=3", "kernel_size=3", "padding=1")
    network = ("--model", "torch.nn:Conv2d", "--model-args", *arguments, "--weights", checkpoint)
    refused(srptq(*COST, *network), "1 missing: bias; 1 unexpected: extra; --allow-missing loads what there is")
    result = srptq(*COST, *network, "--allow-missing")
    assert result.code == 0
    assert "warning: weights fit Conv2d in part; 1 missing: bias; 1 unexpected: extra" in result.err


def test_a_missing_checkpoint_is_refused(srptq: Srptq) -> None:
    refused(srptq(*COST, "nowhere/x4.safetensors"), "no file nowhere/x4.safetensors")
