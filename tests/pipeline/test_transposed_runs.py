"""Networks with transposed convolutions: tuned, exported, and trained on in torchao."""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import networks
from helpers.small_runs import small
from helpers.starting import psnr

import srptq_plugin
from srptq_plugin.pipeline import quantize
from srptq_plugin.runs.run import Run

pytest.importorskip("torchao")
pytest.importorskip("openvino")

from torchao.quantization.pt2e.quantize_pt2e import prepare_pt2e

from srptq_adapters.torchao import SRQuantizer

TUNED: dict[str, Any] = {
    "reconstruction": {"name": "pac", "epochs": 2, "weights": "free"},
    "weights": {"bits": 8, "rounding": "compensated"},
    "equalize": True,
}


@pytest.fixture(scope="module", params=["fsrcnn", "lapsrn"])
def tuned(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Run]:
    folder = tmp_path_factory.mktemp("tuned") / "run"
    return request.param, quantize(small("openvino", **TUNED), model=networks.network(request.param), out=folder)


def test_a_tuned_run_executes_as_simulated(tuned: tuple[str, Run]) -> None:
    report = tuned[1].summary["verify"]
    assert report["passed"], report["problems"]
    assert report["convs_int8"] == report["convs_planned"] == len(tuned[1].table.plan.convs)
    assert any("/conv_transpose" in conv for conv in tuned[1].table.plan.convs)


def test_tuning_moves_their_weights_and_biases(tuned: tuple[str, Run]) -> None:
    kind, run = tuned
    assert "grow/conv_transpose" in run.table.biases
    nearest = networks.calibrated(kind).module.get_parameter("grow.weight")
    level = run.table.level("grow.weight")
    step = run.table.qparams["grow.weight"].scale[None, :, None, None]
    assert bool(((level - nearest).abs() > 0.51 * step).any())


def test_training_starts_as_the_run_simulates(tuned: tuple[str, Run]) -> None:
    kind, run = tuned
    images = networks.images(4, seed=3)
    module = torch.export.export(networks.network(kind), (images,)).module()
    model = prepare_pt2e(module, SRQuantizer.from_recipe(run.recipe))
    assert not srptq_plugin.initialize(model, run.folder).left
    with torch.no_grad():
        assert psnr(model(images), torch.from_numpy(run.simulation()(images.numpy()))) > 60


def test_bias_correction_reaches_them(photographs: Path, tmp_path: Path) -> None:
    recipe = small("openvino", reconstruction={"name": "bias-correction"})
    run = quantize(recipe, model=networks.network("fsrcnn"), images=photographs, out=tmp_path / "run")
    assert "grow/conv_transpose" in run.table.biases
    assert run.summary["verify"]["passed"]
