"""The quantizer of the paper, which is simulated and never written."""

from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import networks

from srptq_adapters.targets.paper import TARGET
from srptq_plugin.deploy.quant_table import QuantTable
from srptq_plugin.errors import SrptqError


@pytest.mark.parametrize("bits", [4, 16])
def test_nothing_is_written(bits: int, float_file: Callable[[str], Path], tmp_path: Path) -> None:
    TARGET.require()
    table = QuantTable.of(networks.calibrated("edsr", bits, "paper"))
    assert list(TARGET.write(float_file("edsr"), table, tmp_path)) == []
    assert list(tmp_path.iterdir()) == []
    assert TARGET.command(tmp_path, (1, 3, 8, 8), fixed=False) == ""


def test_nothing_is_run(tmp_path: Path) -> None:
    with pytest.raises(SrptqError, match=r"a real offset is no integer zero point.*use a recipe of a real target"):
        TARGET.load(tmp_path / "model.onnx")
