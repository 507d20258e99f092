"""ExecuTorch programs: integers to the last one, refusals, and content."""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import networks
from torch import Tensor, nn

from srptq_plugin.deploy.quant_table import QuantTable
from srptq_plugin.errors import MissingRuntimeError, SrptqError
from srptq_plugin.pipeline import quantize
from srptq_plugin.plugins.protocols import Runtime

pytest.importorskip("executorch")

from srptq_adapters.targets.executorch import TARGET

Deploy = Callable[..., tuple[QuantTable, list[Path]]]
ErrorShare = Callable[[str, QuantTable, Runtime], float]


@pytest.fixture(scope="module")
def program(deploy: Deploy) -> tuple[QuantTable, Path]:
    """Compile the toy EDSR, once."""
    table, files = deploy("edsr", "executorch")
    return table, files[0]


def test_convolutions_run_to_the_last_integer(program: tuple[QuantTable, Path], error_share: ErrorShare) -> None:
    table, file = program
    runtime = TARGET.load(file)
    assert error_share("edsr", table, runtime) < 1e-3
    assert runtime.integer_convs() == len(table.plan.convs) == 8
    assert runtime.kernels() == {"Convolution (NHWC, QC8) IGEMM": 8}


def test_weights_of_fewer_bits_are_stored_in_8(deploy: Deploy, error_share: ErrorShare) -> None:
    table, files = deploy("edsr", "executorch", 4, activations={"bits": 8})
    runtime = TARGET.load(files[0])
    assert error_share("edsr", table, runtime) < 1e-3
    assert runtime.integer_convs() == len(table.plan.convs)


def test_clamps_run_in_their_convolutions(tmp_path: Path) -> None:
    class Clamped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Conv2d(3, 4, 3, padding=1)
            self.body = nn.Conv2d(4, 4, 3, padding=1)
            self.tail = nn.Conv2d(4, 3, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            return self.tail(self.body(self.head(x).clamp(min=0.0)).clamp(max=0.5)).clamp(0.0, 1.0)

    torch.manual_seed(0)
    small = ["calibration.patches=4", "calibration.size=24"]
    run = quantize("executorch-w8a8-fast", model=Clamped().eval(), out=tmp_path / "run", overrides=small, device="cpu")
    report = run.summary["verify"]
    assert (report["passed"], report["convs_int8"]) == (True, 3), report["problems"]


def test_a_convolution_left_float_is_not_counted(deploy: Deploy) -> None:
    table, files = deploy("edsr", "executorch", overrides=[{"sites": "tail", "quantize": False}])
    assert TARGET.load(files[0]).integer_convs() == len(table.plan.convs) == 7


def test_the_float_file_runs_in_float(float_file: Callable[[str], Path]) -> None:
    runtime, image = TARGET.load(float_file("edsr")), networks.images(2, 9, 23)
    with torch.no_grad():
        expected = networks.network("edsr")(image).numpy()
    np.testing.assert_allclose(runtime(image.numpy()), expected, atol=1e-5)
    assert runtime.integer_convs() == 0


def test_a_larger_image_is_refused(program: tuple[QuantTable, Path]) -> None:
    with pytest.raises(SrptqError, match=r"up to 512 x 512, and this one has 8 x 513; .* larger `export.largest`"):
        TARGET.load(program[1])(np.zeros((1, 3, 8, 513), np.float32))


def test_another_file_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "model.pte").write_text("no program")
    with pytest.raises(SrptqError, match=r"model\.pte: ExecuTorch does not load it"):
        TARGET.load(tmp_path / "model.pte")


def test_nothing_is_printed_while_it_runs(program: tuple[QuantTable, Path], capfd: pytest.CaptureFixture[str]) -> None:
    capfd.readouterr()
    runtime = TARGET.load(program[1])
    runtime(networks.images(1).numpy())
    runtime.integer_convs()
    assert capfd.readouterr() == ("", "")


def test_the_command_names_the_file() -> None:
    command = TARGET.command(Path("run/model_executorch.pte"), (1, 3, 8, 8), fixed=False)
    assert command == "executor_runner --model_path=model_executorch.pte"


def test_a_missing_runtime_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "executorch", None)
    with pytest.raises(MissingRuntimeError, match=r"pip install 'srptq-plugin\[executorch\]'"):
        TARGET.require()
    with pytest.raises(MissingRuntimeError):
        TARGET.load(Path("model.pte"))


def test_files_hold_no_path(program: tuple[QuantTable, Path]) -> None:
    content = program[1].read_bytes()
    assert str(program[1].parent).encode() not in content
    assert b"site-packages" not in content
