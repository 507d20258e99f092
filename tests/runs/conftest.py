import shutil
from pathlib import Path

import pytest
from helpers import networks
from helpers.forging import Padded, Payload

from srptq_plugin.pipeline import quantize


@pytest.fixture(scope="session")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Quantize a network whose archive has all kinds of entries. Tests must not change the run."""
    recipe = networks.recipe(8, "paper", calibration={"patches": 2, "size": 12})
    return quantize(recipe, model=Padded(), out=tmp_path_factory.mktemp("hostile") / "run").folder


@pytest.fixture
def received(honest: Path, tmp_path: Path) -> Path:
    """Copy the run, so that it can be forged."""
    return shutil.copytree(honest, tmp_path / "run")


@pytest.fixture
def payload(tmp_path: Path) -> Payload:
    return Payload(tmp_path / "marker")
