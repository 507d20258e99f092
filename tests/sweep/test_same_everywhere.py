"""What the cases damage has the same bytes wherever the tests are."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import networks

HERE = [str(Path(__file__).parents[2]).encode(), sys.prefix.encode()]


def test_networks_name_no_folder_of_ours() -> None:
    content = networks.float_model("mixed").SerializeToString()
    assert not [folder for folder in HERE if folder in content]


@pytest.mark.parametrize("target", ["paper", "onnxruntime", "snpe", "openvino"])
def test_runs_name_no_folder_of_ours(runs: Callable[[str], Path], target: str) -> None:
    found = {path.name: path.read_bytes() for path in runs(target).iterdir()}
    assert not [name for name, content in found.items() if any(folder in content for folder in HERE)]
