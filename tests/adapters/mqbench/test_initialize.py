"""initialize(): a run of one toolkit starts a model that another one prepared."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mqbench  # pyright: ignore[reportMissingImports]
import pytest
import torch
from helpers import networks
from helpers.photographs import pixels, save
from helpers.starting import psnr, simulated
from mqbench import prepare_by_platform as platform  # pyright: ignore[reportAttributeAccessIssue]
from mqbench.fake_quantize.quantize_base import QuantizeBase  # pyright: ignore[reportMissingImports]
from mqbench.utils.state import disable_all, enable_quantization  # pyright: ignore[reportMissingImports]
from torch import Tensor, fx, nn

import srptq_plugin
from srptq_adapters.mqbench.grids import read_grid
from srptq_plugin.errors import SrptqError
from srptq_plugin.graph.network import Network
from srptq_plugin.pipeline import quantize
from srptq_plugin.planning.prepared_graph import FLOAT
from srptq_plugin.planning.readback import PlacedQuantizer, iter_quantizers
from srptq_plugin.qat.train_run import train_run
from srptq_plugin.quantization.grid import Bounds, project
from srptq_plugin.quantization.quantizer import Mode
from srptq_plugin.runs.run import Run

pytest.importorskip("torchao")
pytest.importorskip("onnxruntime")

from torchao.quantization.pt2e.quantize_pt2e import prepare_pt2e

from srptq_adapters.torchao import SRQuantizer

Prepare = Callable[..., fx.GraphModule]
LEFT = {"/input", "sub_mean.weight", "tail/conv", "add_mean.weight"}
"""Tensors that the pipeline folds or keeps float: mean shifts and their inputs."""
IN_THE_RUN = {f"body.{block}.first/conv": f"body.{block}/relu" for block in (0, 1)} | {"add_mean/conv": "tail/conv"}
"""Names in the run. MQBench fuses a ReLU into the convolution before it, and the run folds the last mean shift."""
IMAGES = networks.images(4, seed=3)
STANDIN = str(vars(mqbench)["__version__"]).endswith("+standin")
real = pytest.mark.skipif(STANDIN, reason="needs the real MQBench")
KINDS = ["Fixed", "Learnable", "PACT", pytest.param("DSQ", marks=real), "Bounded"]


class Chain(nn.Sequential):
    """Layers with names of their own."""

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 3, 3))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Make a run by the toolkit torchao."""
    recipe = networks.recipe(8, "onnxruntime", calibration={"patches": 4, "size": 16, "batch": 2})
    folder = tmp_path_factory.mktemp("runs") / "run"
    return quantize(recipe, model=networks.network("edsr"), out=folder, device="cpu", toolkit="torchao")


def kinds(quantizer: str) -> dict[str, Any]:
    weights = "Fixed" if quantizer == "PACT" else quantizer  # PACT has one range, for activations.
    return {"w_fakequantize": f"{weights}FakeQuantize", "a_fakequantize": f"{quantizer}FakeQuantize"}


def by_name(model: fx.GraphModule) -> dict[str, PlacedQuantizer]:
    return {placed.name: placed for placed in iter_quantizers(Network(model))}


def expected_bounds(run: Run, placed: PlacedQuantizer) -> Bounds:
    bounds = run.table.qparams[IN_THE_RUN.get(placed.name, placed.name)].bounds
    if read_grid(placed.quantizer).channel_axis is not None:
        return bounds
    return Bounds.of(bounds.lower.min(), bounds.upper.max())


@pytest.mark.parametrize("backend", ["Academic", "SNPE"])
@pytest.mark.parametrize("quantizer", KINDS)
def test_scales_and_zero_points_follow_the_bounds(quantizer: str, backend: str, run: Run, prepare: Prepare) -> None:
    model = prepare("edsr", backend, **kinds(quantizer))
    started = srptq_plugin.initialize(model, run.folder)
    places = by_name(model)
    assert set(started.sites) | set(started.left) == places.keys()
    assert started.sites
    for name in started.sites:
        module: Any = places[name].quantizer
        qparams = project(expected_bounds(run, places[name]), read_grid(module))
        torch.testing.assert_close(module.scale.detach().reshape(-1), qparams.scale.reshape(-1), rtol=0, atol=0)
        assert module.zero_point.detach().reshape(-1).tolist() == qparams.zero_point.reshape(-1).tolist()


@pytest.mark.parametrize("per", ["tensor", "channel"])
def test_bounds_are_per_tensor_or_per_channel(per: str, run: Run, prepare: Prepare) -> None:
    scheme = {"bit": 4, "symmetry": True, "per_channel": per == "channel", "pot_scale": False}
    model = prepare(w_qscheme=scheme)
    srptq_plugin.initialize(model, run.folder)
    head: Any = model.get_submodule("head.weight_fake_quant")
    assert head.scale.numel() == (6 if per == "channel" else 1)
    bounds = run.table.qparams["head.weight"].bounds
    assert head.scale.max() == pytest.approx(float(bounds.upper.max()) / 7)


@pytest.mark.parametrize("backend", ["Academic", "SNPE"])
@pytest.mark.parametrize("quantizer", KINDS)
def test_started_quantizers_quantize_and_others_observe(
    quantizer: str, backend: str, run: Run, prepare: Prepare, caplog: pytest.LogCaptureFixture
) -> None:
    model = prepare("edsr", backend, **kinds(quantizer))
    started = srptq_plugin.initialize(model, run.folder)
    modules: dict[str, Any] = {name: placed.quantizer for name, placed in by_name(model).items()}
    assert set(started.left) == LEFT
    for name, module in modules.items():
        observes = name in started.left
        assert (bool(module.observer_enabled[0]), bool(module.fake_quant_enabled[0])) == (observes, not observes)
    assert all(name in caplog.text for name in started.left)


def test_pact_starts_at_the_bounds_of_the_run(run: Run, prepare: Prepare) -> None:
    model = prepare(**kinds("PACT"))
    srptq_plugin.initialize(model, run.folder)
    pact: Any = model.get_submodule("head_post_act_fake_quantizer")
    real_bounds = project(run.table.qparams["head/conv"].bounds, read_grid(pact)).bounds
    assert float(pact.alpha) == pytest.approx(float(real_bounds.upper))
    assert float(pact.n_alpha) == pytest.approx(float(real_bounds.lower))


@pytest.mark.parametrize("quantizer", KINDS)
def test_started_model_draws_nearly_the_float_output(quantizer: str, run: Run, prepare: Prepare) -> None:
    eight = {"bit": 8, "symmetry": True, "per_channel": True, "pot_scale": False}
    schemes = {"w_qscheme": eight, "a_qscheme": eight | {"symmetry": False, "per_channel": False}}
    model = prepare(**kinds(quantizer), **schemes)
    srptq_plugin.initialize(model, run.folder)
    exact = networks.network("edsr")(IMAGES)
    with torch.no_grad():
        model.train(quantizer == "DSQ")  # DSQ observes in training only.
        model(IMAGES)
        enable_quantization(model)
        model.eval()
        error = (model(IMAGES) - exact).abs()
    assert 0 < error.mean() < 0.02 * (exact.max() - exact.min())


def scales(model: nn.Module) -> list[Tensor]:
    quantizers: list[Any] = [module for module in model.modules() if isinstance(module, QuantizeBase)]
    return [quantizer.scale.detach().clone() for quantizer in quantizers]


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
    """Make a run with scaled channels and tuned weights and biases. Return the kind of network and the run."""
    settings = {
        "calibration": {"patches": 4, "size": 16, "batch": 2},
        "reconstruction": {"name": "pac", "epochs": 2, "weights": "free"},
        "weights": {"bits": 8, "rounding": "compensated"},
        "equalize": True,
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
    with pytest.raises(SrptqError, match=r"site body\.0\.first\.weight: differs from the run's, even with scaled"):
        srptq_plugin.initialize(model, run.folder)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.fixture(scope="module")
def gated(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Train DDTB with the toolkit torchao."""
    folder = tmp_path_factory.mktemp("gated")
    for n in range(3):
        save(pixels(24, 30, seed=n), folder / "low" / f"{n}.png")
    training = {"steps": 6, "every": 2, "batch": 2, "patch": 16, "value_rate": 0.0}
    recipe = networks.recipe(8, "paper", activations={"quantizer": "ddtb"}, training=training)
    start = quantize(
        networks.recipe(8, "paper", calibration=run.recipe.calibration.model_dump()),
        model=networks.network("edsr"),
        out=folder / "start",
        device="cpu",
    )
    return train_run(recipe, start.folder, images=folder / "low", out=folder / "trained", device="cpu")


def test_gates_are_restored_and_stay_in_training(
    gated: Run, prepare: Prepare, caplog: pytest.LogCaptureFixture
) -> None:
    model = prepare(a_fakequantize="srptq.ddtb")
    srptq_plugin.initialize(model, gated.folder)
    assert "has gates for" not in caplog.text
    named: dict[str, Any] = {IN_THE_RUN.get(name, name): placed.quantizer for name, placed in by_name(model).items()}
    with_gates = {group: state for group, state in gated.table.states.items() if "gate.narrow" in state}
    assert with_gates
    for group, state in with_gates.items():
        core = named[group].core
        assert all(torch.equal(core.state()[name], value) for name, value in state.items() if "gate" in name)
    before = [core for core in model.modules() if getattr(core, "gate", None) is not None]
    srptq_plugin.train(model, IMAGES, steps=2, every=2)
    assert [core for core in model.modules() if getattr(core, "gate", None) is not None] == before
    assert len(before) == len(with_gates)


@pytest.mark.parametrize("quantizer", ["Bounded", "Learnable"])
def test_quantizers_without_gates_are_named(
    quantizer: str, gated: Run, prepare: Prepare, caplog: pytest.LogCaptureFixture
) -> None:
    srptq_plugin.initialize(prepare(**kinds(quantizer)), gated.folder)
    assert "has gates for" in caplog.text


@real
@pytest.mark.parametrize("quantizer", ["Learnable", "PACT", "DSQ", "Bounded"])
def test_three_steps_of_training_lower_the_loss(quantizer: str, run: Run, prepare: Prepare) -> None:
    model = prepare(**kinds(quantizer)).train()
    srptq_plugin.initialize(model, run.folder)
    with torch.no_grad():
        model(IMAGES)
    enable_quantization(model)
    start, target = scales(model), networks.network("edsr")(IMAGES).detach()
    losses = train(model, target, steps=3)
    assert losses[-1] < losses[0]
    if quantizer in ("Learnable", "Bounded"):
        assert not all(map(torch.equal, scales(model), start))


def train(model: nn.Module, target: Tensor, steps: int) -> list[float]:
    optimizer = torch.optim.Adam([parameter for parameter in model.parameters() if parameter.requires_grad], 1e-3)
    losses: list[float] = []
    for _ in range(steps + 1):
        optimizer.zero_grad()
        loss = (model(IMAGES) - target).abs().mean()
        loss.backward()
        losses.append(loss.item())
        if len(losses) <= steps:
            optimizer.step()
    return losses


def test_torchao_model_starts_from_the_same_run(run: Run) -> None:
    module = torch.export.export(networks.folded("edsr"), (IMAGES,)).module()
    model = prepare_pt2e(module, SRQuantizer.from_recipe(run.recipe))
    started = srptq_plugin.initialize(model, run.folder)
    assert not started.left
    assert set(started.sites) == set(run.table.qparams)
    for name, placed in by_name(model).items():
        quantizer: Any = placed.quantizer
        assert quantizer.mode is Mode.QUANTIZE
        assert torch.equal(quantizer.qparams().scale, run.table.qparams[name].scale)
        assert torch.equal(quantizer.qparams().zero_point, run.table.qparams[name].zero_point)
