"""initialize(): a model of MQBench gets the weights of the run, if both are of one network."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import networks
from helpers.mqbench_starting import IMAGES, kinds
from helpers.starting import psnr, simulated
from mqbench import prepare_by_platform as platform  # pyright: ignore[reportAttributeAccessIssue]
from mqbench.utils.state import disable_all  # pyright: ignore[reportMissingImports]
from torch import fx, nn

import srptq_plugin
from srptq_plugin.errors import SrptqError
from srptq_plugin.pipeline import quantize
from srptq_plugin.planning.prepared_graph import FLOAT
from srptq_plugin.runs.run import Run

pytest.importorskip("torchao")
pytest.importorskip("onnxruntime")

Prepare = Callable[..., fx.GraphModule]


class Chain(nn.Sequential):
    """Layers with names of their own."""

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 3, 3))


def test_run_of_another_network_is_refused(run: Run, prepare: Prepare) -> None:
    assert prepare
    names = dict.fromkeys(("w_fakequantize", "a_fakequantize"), "FixedFakeQuantize")
    names |= dict.fromkeys(("w_observer", "a_observer"), "MinMaxObserver")
    scheme = {"bit": 8, "symmetry": False, "per_channel": False, "pot_scale": False}
    config = {"extra_qconfig_dict": {**names, "w_qscheme": scheme, "a_qscheme": scheme}}
    model = platform.prepare_by_platform(Chain(), platform.BackendType.Academic, config)
    refusal = r"weight is not in this model; prepare the network that .*program\(\)\.module\(\)"
    with pytest.raises(SrptqError, match=refusal):
        srptq_plugin.initialize(model, run.folder)


def test_run_with_other_channels_is_refused(run: Run, prepare: Prepare, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("helpers.toy_modules.FEATURES", 4)
    with pytest.raises(SrptqError, match=r"site head\.weight: shape \(4, 3, 3, 3\), the run has \(6, 3, 3, 3\)"):
        srptq_plugin.initialize(prepare(), run.folder)


def test_scale_of_a_folded_mean_shift_is_undone(
    prepare: Prepare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = networks.network("edsr")
    network.get_parameter("add_mean.weight").data *= 4
    settings = {"calibration": {"patches": 4, "size": 16, "batch": 2}, "weights": {"bits": 8, "overflow_safe": False}}
    recipe = networks.recipe(8, "onnxruntime", **settings)
    folder = quantize(recipe, model=network, out=tmp_path / "run", device="cpu").folder
    monkeypatch.setattr(networks, "network", {"edsr": network}.__getitem__)
    model = prepare()
    started = srptq_plugin.initialize(model, folder)
    tail: Any = model.get_submodule("tail.weight_fake_quant")
    largest = network.get_parameter("tail.weight").abs().max().item()
    assert "tail.weight" in started.sites
    assert tail.scale.max().item() * 7 == pytest.approx(largest, rel=0.01)
    assert torch.allclose(model.get_parameter("tail.weight"), network.get_parameter("tail.weight"))


@pytest.fixture(scope="module", params=["edsr", "normed"])
def tuned(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Run]:
    """Make a run with other channels and tuned weights and biases. Return the kind of network and the run."""
    settings = {
        "calibration": {"patches": 4, "size": 16, "batch": 2},
        "reconstruction": {"name": "pac", "epochs": 2, "weights": "free"},
        "weights": {"bits": 8, "rounding": "compensated"},
        "equalize": True,
        "rotate": request.param != "normed",
    }
    recipe = networks.recipe(8, "onnxruntime", **settings)
    folder = tmp_path_factory.mktemp("tuned") / "run"
    run = quantize(recipe, model=networks.network(request.param), out=folder, device="cpu")
    assert run.table.biases
    return request.param, run


EIGHT = {"bit": 8, "symmetry": True, "per_channel": True, "pot_scale": False}
EIGHTS = {"w_qscheme": EIGHT, "a_qscheme": EIGHT | {"symmetry": False, "per_channel": False}}


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("backend", ["Academic", "QDQ"])
@pytest.mark.parametrize("quantizer", ["Fixed", "Learnable", "Bounded"])
def test_started_model_draws_what_the_run_simulates(
    quantizer: str, backend: str, mode: str, tuned: tuple[str, Run], prepare: Prepare
) -> None:
    kind, run = tuned
    model = prepare(kind, backend, trains=mode == "train", **kinds(quantizer), **EIGHTS)
    started = srptq_plugin.initialize(model, run.folder)
    reference = simulated(run, model, started.sites)
    with torch.no_grad():
        assert psnr(model(IMAGES), reference(IMAGES)) > 60
        disable_all(model)
        teacher = torch.func.functional_call(model, model.meta[FLOAT], (IMAGES,))
        assert psnr(teacher, networks.network(kind)(IMAGES)) > 100


def test_starting_twice_equals_starting_from_the_last_run(tuned: tuple[str, Run], run: Run, prepare: Prepare) -> None:
    kind, other = tuned
    if kind == "edsr":
        one, both = prepare(**EIGHTS), prepare(**EIGHTS)
        srptq_plugin.initialize(both, other.folder)
        for model in (one, both):
            srptq_plugin.initialize(model, run.folder)
        with torch.no_grad():
            torch.testing.assert_close(one(IMAGES), both(IMAGES), rtol=0, atol=1e-6)


def test_trained_network_is_refused_and_unchanged(run: Run, prepare: Prepare) -> None:
    model = prepare()
    model.get_parameter("body.0.first.weight").data *= 1 + 0.01 * torch.randn(6, 6, 3, 3)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(SrptqError, match=r"site body\.0\.first\.weight: differs from the run's, even with rotated"):
        srptq_plugin.initialize(model, run.folder)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
