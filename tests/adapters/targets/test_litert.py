"""LiteRT files: integers to the last one, images of integers, refusals, and content."""

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
from srptq_plugin.runs.run import Run

pytest.importorskip("ai_edge_litert")

from srptq_adapters.targets.litert import TARGET

Deploy = Callable[..., tuple[QuantTable, list[Path]]]
ErrorShare = Callable[[str, QuantTable, Runtime], float]
SMALL = ["calibration.patches=4", "calibration.size=24"]


@pytest.fixture(scope="module")
def model(deploy: Deploy) -> tuple[QuantTable, Path]:
    """Write the toy EDSR, once."""
    table, files = deploy("edsr", "litert")
    return table, files[0]


def fast(module: nn.Module, out: Path, *overrides: str) -> Run:
    """Quantize a module quickly."""
    return quantize("litert-w8a8-fast", model=module.eval(), out=out, overrides=[*SMALL, *overrides], device="cpu")


def test_convolutions_run_to_the_last_integer(model: tuple[QuantTable, Path], error_share: ErrorShare) -> None:
    table, file = model
    runtime = TARGET.load(file)
    assert error_share("edsr", table, runtime) < 1e-3
    assert runtime.integer_convs() == len(table.plan.convs) == 8
    assert runtime.kernels() == {"CONV_2D": 8}


def test_weights_of_fewer_bits_are_stored_in_8(deploy: Deploy, error_share: ErrorShare) -> None:
    table, files = deploy("edsr", "litert", 4, activations={"bits": 8})
    runtime = TARGET.load(files[0])
    assert error_share("edsr", table, runtime) < 1e-3
    assert runtime.integer_convs() == len(table.plan.convs)


class Clamped(nn.Module):
    """Two convolutions whose values are cut."""

    def __init__(self, ends: tuple[float | None, float | None]) -> None:
        super().__init__()
        self.head, self.tail, self.ends = networks.conv(3, 4), networks.conv(4, 3), ends

    def forward(self, x: Tensor) -> Tensor:
        return self.tail(self.head(x).clamp(*self.ends)).clamp(*self.ends)


@pytest.mark.parametrize("ends", [(0.0, 1.0), (0.0, 6.0), (0.0, None), (None, 0.5), (-0.25, 0.25)])
def test_a_clamp_cuts_integers(ends: tuple[float | None, float | None], tmp_path: Path) -> None:
    torch.manual_seed(0)
    report = fast(Clamped(ends), tmp_path / "run").summary["verify"]
    assert (report["passed"], report["convs_int8"]) == (True, 2), report["problems"]


@pytest.mark.parametrize("layer", [
    nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.Conv2d(8, 8, 3, padding=1, groups=2), nn.Conv2d(8, 8, 3, padding=2,
    dilation=2), nn.Conv2d(8, 8, (1, 5), padding=(0, 2)), nn.Conv2d(8, 8, 1), nn.Sequential(nn.Conv2d(8, 8, 3,
    padding=1), nn.LeakyReLU(0.2)), nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.PReLU(8)),
    nn.Sequential(nn.Conv2d(8, 32, 3, padding=1), nn.PReLU(32), nn.PixelShuffle(2), nn.MaxPool2d(2)),
    nn.Sequential(nn.Conv2d(8, 32, 3, padding=1, groups=8), nn.PixelShuffle(2), nn.AvgPool2d(2)),
    nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(8, 8, 4, stride=2, padding=1)),
], ids=str)  # fmt: skip
def test_layers_run_as_simulated(layer: nn.Module, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(networks.conv(3, 8), layer, networks.conv(8, 12), nn.PixelShuffle(2))
    report = fast(module, tmp_path / "run").summary["verify"]
    assert report["passed"], report["problems"]
    assert report["convs_int8"] == report["convs_planned"] == 3
    assert report["psnr"] is None or report["psnr"] > 60


def test_transposed_convolutions_run_in_integers(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(networks.conv(3, 8), nn.ReLU(), nn.ConvTranspose2d(8, 3, 4, stride=2, padding=1)).eval()
    with pytest.raises(SrptqError, match="ConvTranspose for any size; give `input_size`"):
        fast(module, tmp_path / "run")
    run = quantize("litert-w8a8-fast", model=module, out=tmp_path / "run", overrides=SMALL, input_size=(1, 3, 24, 32))
    report = run.summary["verify"]
    assert (report["passed"], report["kernels"]) == (True, {"CONV_2D": 1, "TRANSPOSE_CONV": 1}), report["problems"]


def test_images_of_integers_give_the_same_image(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module, image = Clamped((0.0, 1.0)), networks.images(2, 9, 23).numpy()
    runs = {io: fast(module, tmp_path / io, f"export.io={io}") for io in ("float", "int8")}
    floats, integers = (TARGET.load(run.artifacts[0])(image) for run in runs.values())
    np.testing.assert_array_equal(floats, integers)
    assert runs["int8"].summary["verify"]["passed"]


def test_a_convolution_left_float_is_not_counted(deploy: Deploy) -> None:
    table, files = deploy("edsr", "litert", overrides=[{"sites": "tail", "quantize": False}])
    assert TARGET.load(files[0]).integer_convs() == len(table.plan.convs) == 7


def test_the_float_file_runs_in_float(float_file: Callable[[str], Path]) -> None:
    runtime, image = TARGET.load(float_file("edsr")), networks.images(2, 9, 23)
    with torch.no_grad():
        expected = networks.network("edsr")(image).numpy()
    np.testing.assert_allclose(runtime(image.numpy()), expected, atol=1e-5)
    assert runtime.integer_convs() == 0


def test_another_file_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "model.tflite").write_text("no model")
    with pytest.raises(SrptqError, match=r"model\.tflite: LiteRT does not load it"):
        TARGET.load(tmp_path / "model.tflite")


def test_nothing_is_printed_while_it_runs(model: tuple[QuantTable, Path], capfd: pytest.CaptureFixture[str]) -> None:
    capfd.readouterr()
    runtime = TARGET.load(model[1])
    runtime(networks.images(1).numpy())
    runtime.integer_convs()
    assert capfd.readouterr() == ("", "")


def test_the_command_names_the_file() -> None:
    command = TARGET.command(Path("run/model_litert.tflite"), (1, 3, 8, 8), fixed=False)
    assert command == "benchmark_model --graph=model_litert.tflite --num_threads=$(nproc)"


def test_a_missing_runtime_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ai_edge_litert", None)
    with pytest.raises(MissingRuntimeError, match=r"pip install 'srptq-plugin\[litert\]'"):
        TARGET.require()
    with pytest.raises(MissingRuntimeError):
        TARGET.load(Path("model.tflite"))


def test_the_same_table_gives_the_same_bytes(model: tuple[QuantTable, Path], deploy: Deploy) -> None:
    _, files = deploy("edsr", "litert")
    content = model[1].read_bytes()
    assert files[0].read_bytes() == content
    assert str(model[1].parent).encode() not in content
