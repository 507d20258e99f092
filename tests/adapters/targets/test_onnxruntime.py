"""ONNX Runtime runs in integers as simulated."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import networks

from srptq_plugin.deploy.quant_table import QuantTable
from srptq_plugin.errors import MissingRuntimeError, SrptqError
from srptq_plugin.plugins.protocols import Runtime

pytest.importorskip("onnxruntime")

from srptq_adapters.targets.onnxruntime import TARGET

Deploy = Callable[..., tuple[QuantTable, list[Path]]]
ErrorShare = Callable[[str, QuantTable, Runtime], float]
MOST = 0.05
"""A share of the error of quantization. Every step is in integers, so only values on a tie may differ."""


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("kind", [*networks.NETWORKS, *networks.OTHERS, *networks.SIZE_DEPENDENT])
def test_every_convolution_runs_in_integers_as_simulated(
    kind: str, bits: int, deploy: Deploy, error_share: ErrorShare
) -> None:
    table, files = deploy(kind, "onnxruntime", bits)
    runtime = TARGET.load(files[0])
    assert runtime.integer_convs() == len(table.plan.convs)
    assert error_share(kind, table, runtime) < MOST


def test_a_convolution_left_float_is_not_counted(deploy: Deploy) -> None:
    table, files = deploy("edsr", "onnxruntime", overrides=[{"sites": "tail", "quantize": False}])
    assert TARGET.load(files[0]).integer_convs() == len(table.plan.convs) == 7


def test_the_float_file_runs_in_float(float_file: Callable[[str], Path]) -> None:
    assert TARGET.load(float_file("edsr")).integer_convs() == 0


def test_the_command_names_the_file() -> None:
    command = TARGET.command(Path("run/model_onnxruntime.onnx"), (1, 3, 8, 8), fixed=False)
    assert command.endswith(" model_onnxruntime.onnx")


def test_another_file_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_text("no ONNX")
    with pytest.raises(SrptqError, match=r"model\.onnx: ONNX Runtime does not load it"):
        TARGET.load(tmp_path / "model.onnx")


def test_files_are_written_without_the_runtime(monkeypatch: pytest.MonkeyPatch, deploy: Deploy) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    TARGET.require()
    _, files = deploy("edsr", "onnxruntime")
    with pytest.raises(MissingRuntimeError, match=r"pip install 'srptq-plugin\[onnxruntime\]'"):
        TARGET.load(files[0])
