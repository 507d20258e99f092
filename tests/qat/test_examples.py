"""The example of training in torchao's flow runs as it is, but for fewer patches and steps."""

from pathlib import Path

from helpers.scripts import run, shortened

import srptq_plugin


def test_it_ends_no_worse_than_it_began(tmp_path: Path) -> None:
    overrides = ["calibration.patches=2", "calibration.size=24"]
    start = srptq_plugin.quantize("onnxruntime-w8a8-fast", out=tmp_path / "run", overrides=overrides).folder
    words = run(shortened("torchao_pt2e.py", tmp_path), tmp_path / "out", str(start)).splitlines()[-1].split()
    assert float(words[7]) >= float(words[4]) > 30
