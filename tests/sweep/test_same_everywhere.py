"""The files that cases damage are the same bytes on every machine."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import networks

LOCAL = [str(Path(__file__).parents[2]).encode(), sys.prefix.encode()]


def test_networks_name_no_local_folder() -> None:
    content = networks.float_model("mixed").SerializeToString()
    assert not [folder for folder in LOCAL if folder in content]


@pytest.mark.parametrize("target", ["paper", "onnxruntime", "snpe", "openvino", "litert", "ncnn", "executorch"])
def test_runs_name_no_local_folder(runs: Callable[[str], Path], target: str) -> None:
    contents = {path.name: path.read_bytes() for path in runs(target).iterdir()}
    assert not [name for name, content in contents.items() if any(folder in content for folder in LOCAL)]
