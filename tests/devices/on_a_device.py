"""Another device gives what the processor gives: the same bits where its kernels are the same, 0.02 dB on a GPU."""

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
"""dB between a GPU and the processor."""


def recipe(target: str = "onnxruntime", bits: int = 4, **keys: Any) -> Recipe:
    return networks.recipe(bits, target, **{"calibration": CALIBRATION, "training": TRAINING, **keys})


def calibrated(chosen: Recipe, device: str, network: str = "edsr") -> tuple[ExportedProgram, QuantTable]:
    inputs = Inputs.load(BoundRecipe.of(chosen, Registry()), Source(networks.network(network)), device)
    return Calibrator(inputs).run()


def check_calibrating(device: str, chosen: Recipe, network: str = "edsr") -> None:
    """A device finds what the processor finds."""
    (program, one), (_, other) = (calibrated(chosen, name, network) for name in ("cpu", device))
    check_alike(graph_of(program), one, other, device)


def check_alike(network: fx.GraphModule, one: QuantTable, other: QuantTable, device: str) -> None:
    """Two tables of a network are the same, or as good as that."""
    if device == "second":
        assert one.qparams.keys() == other.qparams.keys()
        assert [name for name, each in one.qparams.items() if not same(each, other.qparams[name])] == []
        assert [name for name, each in one.weights.items() if not torch.equal(each, other.weights[name])] == []
    image = networks.images(1, seed=9)
    with torch.no_grad():
        truth, *drawn = (each(image).numpy() for each in (network, one.simulate(network), other.simulate(network)))
    assert psnr(drawn[0], truth, 1.0) == pytest.approx(psnr(drawn[1], truth, 1.0), abs=WIDEST)


def same(one: QParams, other: QParams) -> bool:
    return torch.equal(one.scale, other.scale) and torch.equal(one.zero_point, other.zero_point)


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
    check_calibrating(device, recipe(weights={"observer": observer}, activations={"observer": observer}))


@pytest.mark.parametrize("name", RECONSTRUCTIONS)
def test_reconstructions(device: str, name: str) -> None:
    check_calibrating(device, recipe(reconstruction=RECONSTRUCTIONS[name]))


@pytest.mark.parametrize(("network", "target"), [("imdn", "openvino"), ("rdn", "snpe"), ("mixed", "tensorrt")])
def test_networks_on_the_grids_of_targets(device: str, network: str, target: str) -> None:
    check_calibrating(device, recipe(target, 8, equalize=True, reconstruction=PAC), network)


@pytest.mark.parametrize("quantizer", ["linear", "daq", "daq-m"])
def test_levels_by_each_image(device: str, quantizer: str) -> None:
    check_calibrating(device, recipe("paper", activations={"quantizer": quantizer}))


@pytest.mark.parametrize("quantizer", ["bounded", "pams", "fqsr", "ddtb"])
def test_trainings(device: str, quantizer: str, images: Path, tmp_path: Path) -> None:
    chosen = recipe("paper", activations={"quantizer": quantizer})
    start = quantize(chosen, model=networks.network("edsr"), out=tmp_path / "run", device="cpu")
    how: dict[str, Any] = {"images": images, "scale": 2}
    one, other = (train_run(chosen, start.folder, out=tmp_path / name, device=name, **how) for name in ("cpu", device))
    check_alike(start.network, one.table, other.table, device)


def test_an_interrupted_training_resumes(device: str, run: Run, images: Path, tmp_path: Path) -> None:
    how: dict[str, Any] = {"images": images, "scale": 2, "device": device}

    def interrupt(what: str, done: int, _total: int) -> None:
        if what == "training" and done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_run(recipe(), run.folder, out=tmp_path / "parts", progress=interrupt, **how)
    parts = train_run(recipe(), run.folder, out=tmp_path / "parts", resume=True, **how)
    whole = train_run(recipe(), run.folder, out=tmp_path / "whole", **how)
    check_alike(run.network, whole.table, parts.table, device)


def test_a_model_in_torchaos_flow(device: str, run: Run) -> None:
    """From channels scaled to integers, twice: tuned by PaC, and trained from a run."""

    def sums(where: str) -> list[float]:
        patches, drawn = networks.images(4, 16, 16).to(where), list[float]()
        for learn in (_tuned, _trained):
            graph = _prepared(networks.network("edsr").to(where), patches)
            graph(patches)
            learn(graph, run, patches)
            drawn.append(float(convert_pt2e(graph)(patches).double().mean()))
        return drawn

    assert sums(device) == pytest.approx(sums("cpu"), abs=1e-4)


def _prepared(network: nn.Module, patches: Tensor) -> fx.GraphModule:
    scaled = equalize(network, "onnxruntime-w8a8", patches)
    any_size = ({0: Dim.AUTO, 2: Dim.AUTO, 3: Dim.AUTO},)
    exported = torch.export.export(scaled, (patches[:2],), dynamic_shapes=any_size).module()
    return prepare_pt2e(exported, SRQuantizer.from_recipe("onnxruntime-w8a8"))


def _tuned(graph: fx.GraphModule, _run: Run, patches: Tensor) -> None:
    reconstruct(graph, patches, epochs=1)


def _trained(graph: fx.GraphModule, run: Run, patches: Tensor) -> None:
    initialize(graph, run.folder)
    train(graph, patches, steps=2, every=1, batch=2)


def test_analysing_and_looking_at_a_site(device: str, run: Run) -> None:
    source = Source(networks.network("edsr"))
    one, other = (
        analyze(Subject.of_model(Inputs.load(BoundRecipe.of(recipe(), Registry()), source, name), 2)).parts
        for name in ("cpu", device)
    )
    assert [each.alone.noise for each in one] == pytest.approx([each.alone.noise for each in other], rel=1e-2)
    site = run.table.plan.sites[-1].name
    assert distribution(run, site, device=device).counts == distribution(run, site, device="cpu").counts


def test_evaluating(device: str, run: Run, images: Path) -> None:
    one, other = (evaluate(run, images, device=name) for name in ("cpu", device))
    assert [each.psnr for each in one.scores] == pytest.approx([each.psnr for each in other.scores], abs=WIDEST)
