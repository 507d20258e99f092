"""ExecuTorch's XNNPACK runs in integers as simulated."""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import networks

from srptq_plugin.deploy.onnx_export import export_float
from srptq_plugin.deploy.quant_table import QuantTable
from srptq_plugin.errors import MissingRuntimeError, SrptqError
from srptq_plugin.graph.export import export_network
from srptq_plugin.plugins.protocols import Runtime
from srptq_plugin.runs.run import NETWORK, PROGRAM

pytest.importorskip("executorch")

from srptq_adapters.targets.executorch import TARGET

Deploy = Callable[..., tuple[QuantTable, list[Path]]]
ErrorShare = Callable[[str, QuantTable, Runtime], float]
MOST = 0.1
"""A share of the error of quantization. XNNPACK adds by multipliers of 21 bits, so sums near a tie may differ."""
ONE_SIZE = ("bicubic", "rrdb")
"""Networks that compile for one size only: their sizes are quotients of sizes."""
KINDS = [kind for kind in (*networks.NETWORKS, *networks.OTHERS, *networks.SIZE_DEPENDENT) if kind not in ONE_SIZE]


@pytest.mark.parametrize("kind", KINDS)
def test_every_convolution_runs_in_integers_as_simulated(kind: str, deploy: Deploy, error_share: ErrorShare) -> None:
    table, files = deploy(kind, "executorch")
    runtime = TARGET.load(files[0])
    assert error_share(kind, table, runtime) < MOST
    assert runtime.integer_convs() == len(table.plan.convs)


@pytest.mark.parametrize("kind", ["edsr", *ONE_SIZE])
def test_one_size_runs_in_integers(kind: str, tmp_path: Path) -> None:
    size = 1, 3, 12, 14
    table = QuantTable.of(networks.calibrated(kind, 8, "executorch"))
    torch.export.save(networks.exported(kind), tmp_path / PROGRAM)
    export_float(export_network(networks.network(kind), size), tmp_path / NETWORK, networks.METADATA)
    runtime = TARGET.load(TARGET.write(tmp_path / NETWORK, table, tmp_path)[0])
    image = networks.images(1, *size[2:])
    with torch.no_grad():
        expected = table.simulate(networks.graph(kind))(image).numpy()
    assert float(np.abs(runtime(image.numpy()) - expected).max()) < 0.02 * float(np.ptp(expected))
    assert runtime.integer_convs() == len(table.plan.convs)


@pytest.mark.parametrize("kind", ONE_SIZE)
def test_networks_of_one_size_are_refused(kind: str, deploy: Deploy) -> None:
    with pytest.raises(SrptqError, match="`input_size`"):
        deploy(kind, "executorch")


def test_weights_of_fewer_bits_are_stored_in_8(deploy: Deploy, error_share: ErrorShare) -> None:
    table, files = deploy("edsr", "executorch", 4, activations={"bits": 8})
    runtime = TARGET.load(files[0])
    assert error_share("edsr", table, runtime) < MOST
    assert runtime.integer_convs() == len(table.plan.convs)


def test_a_convolution_left_float_is_not_counted(deploy: Deploy) -> None:
    table, files = deploy("edsr", "executorch", overrides=[{"sites": "tail", "quantize": False}])
    assert TARGET.load(files[0]).integer_convs() == len(table.plan.convs) == 7


def test_the_float_file_runs_in_float(float_file: Callable[[str], Path]) -> None:
    runtime, image = TARGET.load(float_file("edsr")), networks.images(2, 9, 23)
    with torch.no_grad():
        expected = networks.network("edsr")(image).numpy()
    np.testing.assert_allclose(runtime(image.numpy()), expected, atol=1e-5)
    assert runtime.integer_convs() == 0


def test_a_larger_image_is_refused(deploy: Deploy) -> None:
    _, files = deploy("edsr", "executorch")
    with pytest.raises(SrptqError, match=r"up to 512 x 512, and this one has 8 x 513; .* larger `export.largest`"):
        TARGET.load(files[0])(np.zeros((1, 3, 8, 513), np.float32))


def test_another_file_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "model.pte").write_text("no program")
    with pytest.raises(SrptqError, match=r"model\.pte: ExecuTorch does not load it"):
        TARGET.load(tmp_path / "model.pte")


def test_nothing_is_printed_while_it_runs(deploy: Deploy, capfd: pytest.CaptureFixture[str]) -> None:
    _, files = deploy("edsr", "executorch")
    capfd.readouterr()
    runtime = TARGET.load(files[0])
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


def test_files_hold_no_path(deploy: Deploy, tmp_path: Path) -> None:
    _, files = deploy("edsr", "executorch")
    assert str(tmp_path.parent).encode() not in files[0].read_bytes()
    assert b"/site-packages/" not in files[0].read_bytes()
