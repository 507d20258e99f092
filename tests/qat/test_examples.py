"""The example of training in torchao's flow runs as it is, but for fewer patches and steps."""

import subprocess
import sys
from pathlib import Path

import srptq_plugin

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "qat" / "torchao_pt2e.py"
SHORTER = {
    "(record.scale), 64, 32": "(record.scale), 4, 16",
    "steps=40, every=20, batch=4": "steps=2, every=1, batch=2",
}


def test_it_ends_no_worse_than_it_began(tmp_path: Path) -> None:
    overrides = ["calibration.patches=2", "calibration.size=24"]
    run = srptq_plugin.quantize("onnxruntime-w8a8-fast", out=tmp_path / "run", overrides=overrides).folder
    text = EXAMPLE.read_text(encoding="utf-8")
    for long, short in SHORTER.items():
        assert text.count(long) == 1
        text = text.replace(long, short)
    script = tmp_path / "example.py"
    script.write_text(text, encoding="utf-8")
    done = subprocess.run(  # noqa: S603 - our own example
        [sys.executable, str(script), str(run)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    words = done.stdout.splitlines()[-1].split()
    assert float(words[7]) >= float(words[4]) > 30
