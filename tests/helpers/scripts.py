"""Scripts of examples and documents, shortened and run in another process."""

import os
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
SHORTER = {
    "load_patches(64, size=32": "load_patches(4, size=16",
    "steps=40, every=20, batch=4": "steps=2, every=1, batch=2",
}


def shortened(example: str, folder: Path) -> Path:
    """Copy an example of training into a folder, with fewer patches and steps. Return the copy."""
    text = (EXAMPLES / "qat" / example).read_text(encoding="utf-8")
    for long, short in SHORTER.items():
        assert text.count(long) == 1
        text = text.replace(long, short)
    script = folder / example
    script.write_text(text, encoding="utf-8")
    return script


def run(script: Path, folder: Path, *arguments: str) -> str:
    """Run a script in a folder and return the text that it prints."""
    folder.mkdir(exist_ok=True)
    done = subprocess.run(  # noqa: S603 - our own
        [sys.executable, str(script), *arguments],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout
