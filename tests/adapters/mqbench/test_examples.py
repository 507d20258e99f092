"""The examples for MQBench: the lines that change in a script, and the files that they write."""

import difflib
import shutil
from pathlib import Path

import onnx
import pytest
from helpers.scripts import EXAMPLES, run, shortened

import srptq_plugin

FOLDER = EXAMPLES / "mqbench"
ACTIVATION = ("import srptq_plugin", "", 'srptq_plugin.activate("mqbench")  # before MQBench is imported')
CONFIG = 'CONFIG = {{"extra_qconfig_dict": {{"w_observer": "MinMaxObserver", "a_observer": "{}"}}}}'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Copy the examples, with a few patches instead of a hundred."""
    copied = Path(shutil.copytree(FOLDER, tmp_path / "examples"))
    network = copied / "network.py"
    text = network.read_text(encoding="utf-8")
    assert text.count("load_patches(") == 1
    network.write_text(text.replace("load_patches(", "load_patches(4, "), encoding="utf-8")
    return copied


def written(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_examples_differ_in_activation_and_one_word() -> None:
    before, after = ((FOLDER / name).read_text(encoding="utf-8").splitlines() for name in ("before.py", "after.py"))
    changes = [line for line in difflib.ndiff(before[1:], after[1:]) if line[0] in "+-"]
    assert changes == [
        *(f"+ {line}" for line in ACTIVATION),
        f"- {CONFIG.format('EMAMinMaxObserver')}",
        f"+ {CONFIG.format('dbdc')}",
    ]
    assert before[0] != after[0]
    assert all(lines[0].startswith('"""') for lines in (before, after))


@pytest.mark.usefixtures("real")
def test_after_writes_the_files_for_snpe(folder: Path, tmp_path: Path) -> None:
    run(folder / "after.py", tmp_path / "out")
    assert written(tmp_path / "out") == {"edsr.onnx", "edsr_deploy_model.onnx", "edsr_clip_ranges.json"}
    onnx.checker.check_model(onnx.load(tmp_path / "out" / "edsr_deploy_model.onnx"))


@pytest.mark.usefixtures("real")
def test_run_writes_a_file_and_reports_psnr(folder: Path, tmp_path: Path) -> None:
    output = run(folder / "run.py", tmp_path / "out")
    calibrated, reconstructed = (line.split() for line in output.splitlines() if " dB" in line)
    assert float(reconstructed[1]) >= float(calibrated[1])
    assert written(tmp_path / "out") == {"edsr_w4a4.onnx"}


@pytest.mark.usefixtures("real")
def test_training_example_improves_psnr_and_writes_files(tmp_path: Path) -> None:
    overrides = ["calibration.patches=2", "calibration.size=24"]
    start = srptq_plugin.quantize("snpe-w8a8-fast", out=tmp_path / "run", overrides=overrides).folder
    words = run(shortened("mqbench_snpe.py", tmp_path), tmp_path / "out", str(start)).splitlines()[-1].split()
    assert float(words[7]) >= float(words[4]) > 30
    assert {"edsr_qat_deploy_model.onnx", "edsr_qat_clip_ranges.json"} <= written(tmp_path / "out")
