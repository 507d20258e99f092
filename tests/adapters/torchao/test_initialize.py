"""initialize() on models that torchao prepared: its own fake-quantizers and ours, with batch norms under training."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import networks
from helpers.starting import psnr, simulated
from torch import Tensor, fx, nn
from torch.func import functional_call
from torchao.quantization.pt2e import (
    disable_fake_quant,
    disable_observer,
    move_exported_model_to_eval,  # pyright: ignore[reportPrivateUsage]
)
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e, prepare_qat_pt2e
from torchao.quantization.pt2e.quantizer import Quantizer
from torchao.quantization.pt2e.quantizer.x86_inductor_quantizer import (
    X86InductorQuantizer,
    get_default_x86_inductor_quantization_config,
)

import srptq_plugin
from srptq_adapters.torchao import SRQuantizer, with_observer
from srptq_plugin.errors import SrptqError
from srptq_plugin.pipeline import quantize
from srptq_plugin.planning.prepared_graph import FLOAT
from srptq_plugin.runs.run import Run

pytest.importorskip("onnxruntime")

IMAGES = networks.images(4, seed=3)
SETTINGS: dict[str, Any] = {
    "calibration": {"patches": 4, "size": 16, "batch": 2},
    "reconstruction": {"name": "pac", "epochs": 2, "weights": "free"},
    "weights": {"bits": 8, "rounding": "compensated"},
    "equalize": True,
}


@pytest.fixture(scope="module", params=["edsr", "normed", "mixed"])
def tuned(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Run]:
    """Make a run with other channels and tuned weights and biases. Return the kind of network and the run."""
    folder = tmp_path_factory.mktemp("tuned") / "run"
    recipe = networks.recipe(8, "onnxruntime", **SETTINGS, rotate=request.param != "normed")
    return request.param, quantize(recipe, model=networks.network(request.param), out=folder, device="cpu")


def stock() -> Quantizer:
    return X86InductorQuantizer().set_global(get_default_x86_inductor_quantization_config(is_qat=True))


def trained(kind: str, quantizer: Quantizer) -> fx.GraphModule:
    """Prepare a network for training, with batch norms in training mode."""
    module = torch.export.export(networks.network(kind).train(), (IMAGES,)).module()
    return prepare_qat_pt2e(module, quantizer)


@pytest.mark.parametrize("quantizer", [stock, lambda: with_observer(stock(), "dbdc")], ids=["stock", "ours within"])
def test_training_model_starts_as_the_run_simulates(quantizer: Callable[[], Quantizer], tuned: tuple[str, Run]) -> None:
    kind, run = tuned
    model = trained(kind, quantizer())
    started = srptq_plugin.initialize(model, run.folder)
    assert {site.name for site in run.table.plan.weights} <= {name.replace("/mul", ".weight") for name in started.sites}
    reference = simulated(run, model, started.sites)
    move_exported_model_to_eval(model)
    with torch.no_grad():
        assert psnr(model(IMAGES), reference(IMAGES)) > 60


@pytest.mark.parametrize("recipe", ["onnxruntime-w8a8-fast", "paper-w4a4"])
def test_our_quantizer_starts_from_its_recipe_in_training(recipe: str, tmp_path: Path) -> None:
    loaded = srptq_plugin.Recipe.load(recipe, ["calibration.patches=4", "calibration.size=16"])
    loaded = loaded.model_copy(update={"reconstruction": None})
    run = quantize(loaded, model=networks.network("normed"), out=tmp_path / "run", device="cpu")
    model = trained("normed", SRQuantizer.from_recipe(loaded))
    assert not srptq_plugin.initialize(model, run.folder).left
    move_exported_model_to_eval(model)
    with torch.no_grad():
        assert psnr(model(IMAGES), torch.from_numpy(run.simulation()(IMAGES.numpy()))) > 60


def test_rotation_behind_a_batch_norm_is_refused(tmp_path: Path) -> None:
    recipe = networks.recipe(8, "onnxruntime", rotate=True, calibration=SETTINGS["calibration"])
    run = quantize(recipe, model=networks.network("normed"), out=tmp_path / "run", device="cpu")
    with pytest.raises(SrptqError, match=r"was rotated, .*; quantize with `rotate: false`, or fold"):
        srptq_plugin.initialize(trained("normed", stock()), run.folder)


@pytest.mark.parametrize("tuned", ["normed"], indirect=True)
def test_batch_norms_keep_their_statistics(tuned: tuple[str, Run]) -> None:
    kind, run = tuned
    before, after = (normed_features(trained(kind, stock()), folder) for folder in (None, run.folder))
    for name, (mean, variance) in before.items():
        torch.testing.assert_close(after[name][0], mean, rtol=0.02, atol=0.02)
        torch.testing.assert_close(after[name][1], variance, rtol=0.05, atol=0.02)


def normed_features(model: fx.GraphModule, run: Path | None) -> dict[str, tuple[Tensor, Tensor]]:
    """Return the mean and variance of each batch norm's input, by channel. Nothing is quantized."""
    if run is not None:
        srptq_plugin.initialize(model, run)
    model.apply(disable_observer)
    model.apply(disable_fake_quant)
    statistics: dict[str, tuple[Tensor, Tensor]] = {}

    class Watching(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            if "batch_norm" in n.name:
                read = super().fetch_args_kwargs_from_env(n)[0][0]
                statistics[n.name] = read.mean((0, 2, 3)), read.var((0, 2, 3))
            return super().run_node(n)

    with torch.no_grad():
        Watching(model).run(IMAGES)
    return statistics


def test_converted_model_computes_what_the_run_simulates(tmp_path: Path) -> None:
    network = nn.Sequential(networks.conv(3, 6), nn.ReLU(), networks.conv(6, 12), nn.PixelShuffle(2)).eval()
    run = quantize(networks.recipe(8, "onnxruntime", **SETTINGS), model=network, out=tmp_path / "run", device="cpu")
    model = prepare_qat_pt2e(torch.export.export(network, (IMAGES,)).module(), stock())
    started = srptq_plugin.initialize(model, run.folder)
    assert not started.left
    reference = simulated(run, model, started.sites)
    move_exported_model_to_eval(model)
    with torch.no_grad():
        assert psnr(convert_pt2e(model)(IMAGES), reference(IMAGES)) > 60


def test_float_network_stays_the_teacher(tuned: tuple[str, Run]) -> None:
    kind, run = tuned
    module = torch.export.export(networks.network(kind), (IMAGES,)).module()
    model = prepare_pt2e(module, SRQuantizer.from_recipe(run.recipe))
    srptq_plugin.initialize(model, run.folder)
    assert any(not torch.equal(model.get_parameter(name), value) for name, value in model.meta[FLOAT].items())
    model.apply(disable_observer)
    model.apply(disable_fake_quant)
    with torch.no_grad():
        assert psnr(functional_call(model, model.meta[FLOAT], (IMAGES,)), networks.network(kind)(IMAGES)) > 100


def test_refusal_names_a_way_that_works(tuned: tuple[str, Run]) -> None:
    kind, run = tuned
    other = networks.network(kind)
    next(other.parameters()).data.mul_(torch.randn(3, 1, 1, 1) if kind == "edsr" else torch.randn(6, 1, 1, 1))
    convs = [module for module in other.modules() if isinstance(module, nn.Conv2d)]
    convs[-2].weight.data += 0.1 * torch.randn_like(convs[-2].weight)
    model = prepare_pt2e(torch.export.export(other, (IMAGES,)).module(), SRQuantizer.from_recipe(run.recipe))
    with pytest.raises(SrptqError, match="program") as refused:
        srptq_plugin.initialize(model, run.folder)
    line = str(refused.value).partition("own: ")[2]
    model = prepare_pt2e(eval(line, {"srptq_plugin": srptq_plugin}), SRQuantizer.from_recipe(run.recipe))  # noqa: S307
    assert not srptq_plugin.initialize(model, run.folder).left
    with torch.no_grad():
        assert torch.equal(model(IMAGES), torch.from_numpy(run.simulation()(IMAGES.numpy())))
