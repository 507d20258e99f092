"""Another device gives the results of the CPU: bit for bit with the same kernels, within 0.02 dB on a GPU."""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import networks
from helpers.photographs import pixels, save
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram

from srptq_plugin import equalize, initialize, train
from srptq_plugin.analysis.analyze import analyze
from srptq_plugin.analysis.distribution import distribution
from srptq_plugin.analysis.subject import Subject
from srptq_plugin.calibration.calibrator import Calibrator
from srptq_plugin.calibration.inputs import Inputs, Source
from srptq_plugin.data.metrics import psnr
from srptq_plugin.deploy.quant_table import QuantTable
from srptq_plugin.evaluation.evaluate import evaluate
from srptq_plugin.graph.export import graph_of
from srptq_plugin.pipeline import quantize
from srptq_plugin.plugins.bound_recipe import BoundRecipe
from srptq_plugin.plugins.registry import Registry
from srptq_plugin.qat.train_run import train_run
from srptq_plugin.quantization.grid import QParams
from srptq_plugin.recipes.recipe import Recipe
from srptq_plugin.runs.run import Run

pytest.importorskip("torchao")
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

from srptq_adapters.torchao import SRQuantizer, reconstruct

CALIBRATION = {"patches": 4, "size": 16, "batch": 2}
TRAINING = {"steps": 4, "every": 2, "batch": 2, "patch": 16, "value_rate": 0.05, "bound_rate": 2e-3}
PAC: dict[str, Any] = {"name": "pac", "epochs": 1}
RECONSTRUCTIONS: dict[str, dict[str, Any]] = {
    "pac": PAC,
    "the paper's": PAC
    | {
        "schedule": "alternating",
        "rates": "absolute",
        "gradient": "pact",
        "output_loss": "l1",
        "feature_loss": "literal",
    },
    "all options": PAC | {"start": "image", "blocks": "sensitivity", "bias_correction": True, "weights": "free"},
    "rounding": PAC | {"weights": "rounding"},
}
WIDEST = 0.02
"""The widest difference in dB between a GPU and the CPU."""


def recipe(target: str = "onnxruntime", bits: int = 4, **keys: Any) -> Recipe:
    return networks.recipe(bits, target, **{"calibration": CALIBRATION, "training": TRAINING, **keys})


def calibrated(settings: Recipe, device: str, network: str = "edsr") -> tuple[ExportedProgram, QuantTable]:
    inputs = Inputs.load(BoundRecipe.of(settings, Registry()), Source(networks.network(network)), device)
    return Calibrator(inputs).run()


def check_calibration(device: str, settings: Recipe, network: str = "edsr") -> None:
    """Check that calibrating on the device gives the result of the CPU."""
    program, expected = calibrated(settings, "cpu", network)
    _, actual = calibrated(settings, device, network)
    check_tables(graph_of(program), actual, expected, device)


def check_tables(network: fx.GraphModule, actual: QuantTable, expected: QuantTable, device: str) -> None:
    """Check that both tables are equal on the second device, and equally good on a GPU."""
    if device == "second":
        assert actual.qparams.keys() == expected.qparams.keys()
        assert [name for name in expected.qparams if not same(actual.qparams[name], expected.qparams[name])] == []
        assert [
            name for name in expected.weights if not torch.equal(actual.weights[name], expected.weights[name])
        ] == []
    image = networks.images(1, seed=9)
    with torch.no_grad():
        truth = network(image).numpy()
        qualities = [psnr(table.simulate(network)(image).numpy(), truth, 1.0) for table in (actual, expected)]
    assert qualities[0] == pytest.approx(qualities[1], abs=WIDEST)


def same(actual: QParams, expected: QParams) -> bool:
    return torch.equal(actual.scale, expected.scale) and torch.equal(actual.zero_point, expected.zero_point)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return quantize(recipe(), model=networks.network("edsr"), out=tmp_path_factory.mktemp("runs") / "run", device="cpu")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for n in range(4):
        save(pixels(48, 60, seed=n), tmp_path / "photographs" / f"{n}.png")
    return tmp_path / "photographs"


@pytest.mark.parametrize("observer", ["dbdc", "minmax", "percentile", "mse", "entropy"])
def test_observers(device: str, observer: str) -> None:
    check_calibration(device, recipe(weights={"observer": observer}, activations={"observer": observer}))


@pytest.mark.parametrize("name", RECONSTRUCTIONS)
def test_reconstructions(device: str, name: str) -> None:
    check_calibration(device, recipe(reconstruction=RECONSTRUCTIONS[name]))


@pytest.mark.parametrize(("network", "target"), [("imdn", "openvino"), ("rdn", "snpe"), ("mixed", "tensorrt")])
def test_networks_on_the_grids_of_targets(device: str, network: str, target: str) -> None:
    check_calibration(device, recipe(target, 8, equalize=True, reconstruction=PAC), network)


@pytest.mark.parametrize("quantizer", ["linear", "daq", "daq-m"])
def test_dynamic_quantizers(device: str, quantizer: str) -> None:
    check_calibration(device, recipe("paper", activations={"quantizer": quantizer}))


@pytest.mark.parametrize("quantizer", ["bounded", "pams", "fqsr", "ddtb"])
def test_trainings(device: str, quantizer: str, images: Path, tmp_path: Path) -> None:
    settings = recipe("paper", activations={"quantizer": quantizer})
    start = quantize(settings, model=networks.network("edsr"), out=tmp_path / "run", device="cpu")

    def trained(name: str) -> QuantTable:
        out = tmp_path / f"trained-{name}"
        return train_run(settings, start.folder, out=out, device=name, images=images, scale=2).table

    expected = trained("cpu")
    check_tables(start.network, trained(device), expected, device)


def test_an_interrupted_training_resumes(device: str, run: Run, images: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"images": images, "scale": 2, "device": device}

    def interrupt(step: str, done: int, _total: int) -> None:
        if step == "training" and done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_run(recipe(), run.folder, out=tmp_path / "parts", progress=interrupt, **options)
    parts = train_run(recipe(), run.folder, out=tmp_path / "parts", resume=True, **options)
    whole = train_run(recipe(), run.folder, out=tmp_path / "whole", **options)
    check_tables(run.network, parts.table, whole.table, device)


def test_torchao_flow(device: str, run: Run) -> None:
    """Convert an equalized model to integers twice: tuned by PaC, and trained from a run."""

    def means_on(where: str) -> list[float]:
        patches, means = networks.images(4, 16, 16).to(where), list[float]()
        for learn in (_tune, _train):
            graph = _prepare(networks.network("edsr").to(where), patches)
            graph(patches)
            learn(graph, run, patches)
            means.append(float(convert_pt2e(graph)(patches).double().mean()))
        return means

    assert means_on(device) == pytest.approx(means_on("cpu"), abs=1e-4)


def _prepare(network: nn.Module, patches: Tensor) -> fx.GraphModule:
    scaled = equalize(network, "onnxruntime-w8a8", patches)
    any_size = ({0: Dim.AUTO, 2: Dim.AUTO, 3: Dim.AUTO},)
    exported = torch.export.export(scaled, (patches[:2],), dynamic_shapes=any_size).module()
    return prepare_pt2e(exported, SRQuantizer.from_recipe("onnxruntime-w8a8"))


def _tune(graph: fx.GraphModule, _run: Run, patches: Tensor) -> None:
    reconstruct(graph, patches, epochs=1)


def _train(graph: fx.GraphModule, run: Run, patches: Tensor) -> None:
    initialize(graph, run.folder)
    train(graph, patches, steps=2, every=1, batch=2)


def test_analysis_and_distribution(device: str, run: Run) -> None:
    def noises(name: str) -> list[float]:
        inputs = Inputs.load(BoundRecipe.of(recipe(), Registry()), Source(networks.network("edsr")), name)
        return [part.alone.noise for part in analyze(Subject.of_model(inputs, 2)).parts]

    assert noises(device) == pytest.approx(noises("cpu"), rel=1e-2)
    site = run.table.plan.sites[-1].name
    assert distribution(run, site, device=device).counts == distribution(run, site, device="cpu").counts


def test_evaluation(device: str, run: Run, images: Path) -> None:
    actual, expected = evaluate(run, images, device=device), evaluate(run, images, device="cpu")
    psnrs = [score.psnr for score in expected.scores]
    assert [score.psnr for score in actual.scores] == pytest.approx(psnrs, abs=WIDEST)
