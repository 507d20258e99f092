"""What on_a_device.py has, in a process of its own: torch counts devices when it first computes a gradient."""

import subprocess
import sys
from pathlib import Path

import pytest
from helpers.command_line import captured, refused


@pytest.mark.parametrize("device", ["second", "cuda"])
def test_another_device_gives_what_the_processor_gives(device: str) -> None:
    cases = Path(__file__).with_name("on_a_device.py")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", str(cases), "-k", device, "-rs", "-v"]
    found = subprocess.run(command, capture_output=True, text=True, cwd=cases.parents[2], check=False)  # noqa: S603
    assert found.returncode == 0, found.stdout
    if " passed" not in found.stdout:
        pytest.skip(found.stdout.strip().splitlines()[-1])


def test_a_device_that_is_not_there(tmp_path: Path) -> None:
    refused(captured("quantize", "--device", "cuda:99", "--out", tmp_path / "run"), "--device cuda:99: not there")
