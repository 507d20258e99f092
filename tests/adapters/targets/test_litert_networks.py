"""LiteRT runs in integers as simulated, on networks of each kind."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import networks
from torch import Tensor, nn

from srptq_plugin.deploy.fixed_point import use_fixed_point
from srptq_plugin.deploy.onnx_export import export_float
from srptq_plugin.deploy.quant_table import QuantTable
from srptq_plugin.errors import SrptqError
from srptq_plugin.graph.export import export_network
from srptq_plugin.pipeline import quantize
from srptq_plugin.recipes.recipe import Recipe
from srptq_plugin.runs.run import NETWORK

pytest.importorskip("ai_edge_litert")

from srptq_adapters.targets.litert import TARGET

Deploy = Callable[..., tuple[QuantTable, list[Path]]]
ErrorShare = Callable[..., float]
RULES = TARGET.presets["default"]
MOST = 1e-3
"""A share of the error of quantization."""
KINDS = ("edsr", "shared", "activations", "imdn", "rdn")
ONE_SIZE = ("bicubic", "lapsrn", "mixed", "rrdb", "tokens")


@pytest.mark.parametrize("kind", KINDS)
def test_every_convolution_runs_in_integers_as_simulated(kind: str, deploy: Deploy, error_share: ErrorShare) -> None:
    table, files = deploy(kind, "litert")
    runtime = TARGET.load(files[0])
    assert error_share(kind, table, runtime, RULES) < MOST
    assert runtime.integer_convs() == len(table.plan.convs)


@pytest.mark.parametrize("kind", ONE_SIZE)
def test_one_size_runs_in_integers(kind: str, tmp_path: Path) -> None:
    size = 1, 3, 12, 14
    table = QuantTable.of(networks.calibrated(kind, 8, "litert"))
    export_float(export_network(networks.network(kind), size), tmp_path / NETWORK, networks.METADATA)
    runtime = TARGET.load(TARGET.write(tmp_path / NETWORK, table, tmp_path)[0])
    image = networks.images(1, *size[2:])
    with torch.no_grad():
        expected = use_fixed_point(table.simulate(networks.graph(kind)), RULES)(image).numpy()
    assert float(np.abs(runtime(image.numpy()) - expected).max()) < 0.02 * float(np.ptp(expected))
    assert runtime.integer_convs() == len(table.plan.convs)


@pytest.mark.parametrize("target", ["litert", "ncnn"])
def test_refusals_come_before_a_calibration(target: str, tmp_path: Path) -> None:
    class Unknown(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tail = networks.conv(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return torch.sinh(self.tail(x))

    phases: list[str] = []
    with pytest.raises(SrptqError, match="Sinh"):
        quantize(
            f"{target}-w8a8-fast", model=Unknown().eval(), out=tmp_path / "run", device="cpu",
            progress=lambda phase, _done, _total: phases.append(phase),
        )  # fmt: skip
    assert phases[-1] == "checking what the target computes"


@pytest.mark.parametrize("name", ["litert-w8a8", "litert-w8a8-best", "litert-w8a8-fast"])
def test_a_shipped_recipe_makes_a_verified_run(name: str, tmp_path: Path) -> None:
    small = ["calibration.patches=4", "calibration.size=24"]
    if Recipe.load(name).reconstruction:
        small.append("reconstruction.epochs=1")
    run = quantize(name, model=networks.network("edsr"), out=tmp_path / "run", overrides=small, device="cpu")
    report = run.summary["verify"]
    assert report["passed"], report["problems"]
    assert report["convs_int8"] == report["convs_planned"] == 8
    assert report["psnr"] is None or report["psnr"] > 65
    assert report["speedup"] is not None
