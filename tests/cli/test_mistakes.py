from pathlib import Path

import pytest
import torch
from helpers.command_line import TINY, Srptq, captured, refused
from safetensors.torch import load_file, save_file

from srptq_plugin.models.edsr import MINI


@pytest.mark.parametrize(
    ("argv", "part"),
    [
        (["quantice"], "invalid choice"),
        (["quantize", "--recip", "x"], "--recip"),
        (["quantize", "--input-size", "3x270x480"], "1x3x270x480"),
        (["quantize", "--input-size", "1x3x0x480"], "1x3x270x480"),
        (["quantize", "--input-size", "2x3x270x480"], "1x3x270x480"),
        (["quantize", "--input-range", "1:0"], "0:1"),
        (["quantize", "--input-range", "0:inf"], "0:1"),
        (["quantize", "--model-args", "upscale"], "upscale=4"),
        (["quantize", "--model-args", "upscale=["], "check the YAML"),
        (["quantize", "--scale", "0"], "from 1 to 16"),
        (["quantize", "--images", ""], "empty"),
        (["quantize", "--images", "nowhere"], "nowhere does not exist"),
        (["quantize", "--recipe", "openvno-w8a8"], "did you mean 'openvino-w8a8'"),
        (["quantize", "--recipe", "nowhere.yaml"], "cannot be read"),
        (["quantize", "--model", "edsr-mni"], "unknown model 'edsr-mni'"),
        (["quantize", "--model", "nowhere:build"], "importing nowhere failed"),
        (["quantize", "--set", "target=openvno"], "did you mean 'openvino'"),
        (["quantize", "--set", "activations.bit=4"], "did you mean 'bits'"),
        (["quantize", "--set", "activations.bits"], "give key=value"),
        (["quantize", "--set", "activations.bits=9"], "the nearest is 8"),
        (["quantize", "--toolkit", "torchoa"], "did you mean 'torchao'"),
        (["quantize", "--device", "gpu"], "error: --device gpu: not available"),
        (["quantize", "--weights", "nowhere.pth"], "no file nowhere.pth"),
        (["recipes", "openvno-w8a8"], "did you mean"),
        (["verify", "nowhere"], "no such run folder"),
        (["verify", "."], "missing"),
        (["cost", "./nowhere"], "no such run folder"),
        (
            ["cost", "./run", "--recipe", "paper-w4a4", "--model-args", "upscale=2"],
            "--recipe, --model-args: ./run is a run, which has its own; give one or the other",
        ),
        (["cost", "--input-size", "3x270x480"], "1x3x270x480"),
        (["cost", "--recipe", "openvno-w8a8"], "did you mean 'openvino-w8a8'"),
        (["cost", "--set", "activations.bits=9"], "the nearest is 8"),
        (["cost", "--model", "edsr-mni"], "unknown model 'edsr-mni'"),
        (["cost", "srresnet"], "no weights"),
        (["cost", "edsr-mini", "--model", "srresnet"], "--model: edsr-mini is a network; give one or the other"),
        (["analyze", "./nowhere"], "no such run folder"),
        (["analyze", "edsr-mni"], "unknown model 'edsr-mni'"),
        (["analyze", "--patches", "0"], "give a whole number from 1"),
        (["analyze", "--by", "layer"], "invalid choice: 'layer'"),
        (["analyze", "--out", "no/where.json"], "error: --out no/where.json: no folder no; make it"),
        (["analyze", "--budget", "speed=2"], "give size, bops or drop and how much, such as bops=0.3"),
        (["evaluate", "nowhere", "--data", "."], "no such run folder"),
        (["evaluate", "nowhere"], "--data"),
        (["evaluate", "nowhere", "--data", ".", "--tile", "large"], "invalid int value"),
    ],
)
def test_mistakes_name_the_option(
    srptq: Srptq, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, argv: list[str], part: str
) -> None:
    monkeypatch.chdir(tmp_path)
    refused(srptq(*argv), part)
    assert not list(tmp_path.iterdir())


def test_unreadable_image_is_named(srptq: Srptq, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    result = srptq("quantize", "--images", tmp_path, "--out", tmp_path / "run")
    refused(result, "broken.png: not a readable image")


def test_misfit_checkpoint_is_refused(srptq: Srptq, tmp_path: Path) -> None:
    state = load_file(MINI["4"])
    del state["body.3.body.2.bias"]
    save_file(state, tmp_path / "short.safetensors")
    result = srptq("quantize", "--weights", tmp_path / "short.safetensors", "--out", tmp_path / "run")
    refused(result, "1 missing: body.3.body.2.bias")


def test_checkpoint_with_nan_is_refused(srptq: Srptq, tmp_path: Path) -> None:
    state = load_file(MINI["4"])
    state["head.0.weight"][0, 0, 0, 0] = torch.nan
    save_file(state, tmp_path / "nan.safetensors")
    result = srptq("quantize", "--weights", tmp_path / "nan.safetensors", "--out", tmp_path / "run")
    refused(result, "head.0.weight", "NaN")


def test_folder_without_run_is_not_overwritten(srptq: Srptq, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    refused(srptq("quantize", *TINY, "--out", tmp_path), f"--out {tmp_path}: holds files that belong to no run")
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_model_file_that_exits_is_refused(srptq: Srptq, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ends_at_import.py").write_text("import sys\nsys.exit(0)\n")
    refused(srptq("quantize", "--model", "ends_at_import:build"), "ended the program")


def test_mistakes_in_a_process(tmp_path: Path) -> None:
    refused(captured("verify", tmp_path), "missing")
    nothing = captured()
    assert (nothing.code, nothing.out) == (2, "")
    assert "usage: srptq" in nothing.err
