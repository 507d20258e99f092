"""DDTB: the places of its gates, when they act, resuming, simulation, and by name in both toolkits."""

import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import networks
from helpers.photographs import pixels, save
from helpers.trainings import everything
from torch import Tensor

import srptq_plugin
from srptq_plugin.data.images import Image
from srptq_plugin.deploy.quant_table import QuantTable
from srptq_plugin.errors import SrptqError
from srptq_plugin.pipeline import quantize
from srptq_plugin.planning.prepared_graph import PreparedGraph
from srptq_plugin.plugins.registry import Registry
from srptq_plugin.qat.batches import Patches
from srptq_plugin.qat.ddtb import DdtbFakeQuantize, Gate
from srptq_plugin.qat.train_run import train_run
from srptq_plugin.qat.training import Training, train
from srptq_plugin.quantization.grid import Bounds, IntGrid
from srptq_plugin.quantization.quantizer import BoundedFakeQuantize, Mode
from srptq_plugin.recipes.recipe import Recipe
from srptq_plugin.recipes.schema import TrainingSettings
from srptq_plugin.runs.run import Run

IMAGES = networks.images(8, seed=5)
BATCHES = Patches([Image(str(n), pixels(24, 30, n)) for n in range(3)], None, 2, 16, 2, networks.UNIT)
STEPS = 8


def recipe(bits: int = 2, **keys: Any) -> Recipe:
    activations = {"observer": "percentile", "options": {"percentile": 1}, "quantizer": "ddtb"}
    return networks.recipe(bits, "paper", **({"activations": activations, "placement": "convs"} | keys))


def prepared_by(toolkit: str, network: str = "edsr", chosen: Recipe | None = None) -> PreparedGraph:
    plan = networks.plan(network, chosen or recipe())
    prepared = Registry().toolkit(toolkit).load().realize(networks.exported(network), plan)
    prepared.observe([IMAGES])
    return prepared


def begun(network: str = "edsr", **options: Any) -> Training:
    prepared = networks.realize(network, networks.plan(network, recipe()))
    prepared.observe([IMAGES])
    prepared.on_train_begin(IMAGES)
    chosen: dict[str, Any] = {"steps": STEPS, "every": 2, "value_rate": 0.05, "bound_rate": 2e-3, **options}
    return Training(prepared, TrainingSettings(**chosen), peak=1.0)


def gates(prepared: PreparedGraph) -> dict[str, Gate]:
    quantizers: dict[str, Any] = prepared.quantizers
    return {
        name: quantizer.gate for name, quantizer in quantizers.items() if getattr(quantizer, "gate", None) is not None
    }


def test_gates_go_where_extremes_vary_most() -> None:
    prepared = prepared_by("torchao")
    kept: dict[str, Tensor] = {}

    def keep(name: str, _module: torch.nn.Module, inputs: tuple[Tensor, ...]) -> None:
        kept[name] = inputs[0].clone()

    members = [name for name, quantizer in prepared.quantizers.items() if isinstance(quantizer, DdtbFakeQuantize)]
    for name in members:
        prepared.quantizers[name].register_forward_pre_hook(partial(keep, name))
    prepared.on_train_begin(IMAGES)
    ends = {name: (values.flatten(1).amin(1), values.flatten(1).amax(1)) for name, values in kept.items()}
    spread = {name: float(low.var(correction=0) + high.var(correction=0)) for name, (low, high) in ends.items()}
    expected = sorted(spread, key=spread.__getitem__)[-round(0.3 * len(members)) :]
    chosen = gates(prepared)
    assert set(chosen) == set(expected)
    assert {name: gate.narrow.shape[1] for name, gate in chosen.items()} == {n: kept[n].shape[1] for n in expected}
    prepared.on_train_begin(networks.images(8, seed=9))
    assert gates(prepared) == chosen


def test_tensors_of_several_widths_have_no_gate() -> None:
    """Use a network in which data movement joins tensors of several widths in one encoding."""
    prepared = networks.realize("imdn", networks.plan("imdn", recipe(placement="full")))
    prepared.observe([IMAGES])
    prepared.on_train_begin(IMAGES)
    assert gates(prepared)
    assert prepared(IMAGES).isfinite().all()


def test_gates_act_after_a_share_of_the_training() -> None:
    training = begun(steps=20)
    trained_gates = gates(training.prepared)
    seen: list[bool] = []
    with training.learning:
        training.learning.take_turns(("weight", "activation"))
        for step in range(4):
            training.step(BATCHES(step))
            seen.append(all(bool(gate.acts) for gate in trained_gates.values()))
    assert seen == [False, False, True, True]


def closeness(prepared: PreparedGraph) -> float:
    error = prepared(IMAGES) - prepared.float_forward(IMAGES)[0]
    return -10 * float(error.square().mean().log10())


@pytest.mark.parametrize("parts", [1, 3])
def test_an_interrupted_training_ends_with_the_same_bits(parts: int, tmp_path: Path) -> None:
    """Compare all tensors, also the batch norms of gates and whether gates act."""
    whole = begun()
    list(train(whole, BATCHES, closeness))
    first = begun()
    records = train(first, BATCHES, closeness)
    assert [next(records).step for _ in range(parts)][-1] == 2 * parts - 2
    torch.save(first.state(), tmp_path / "state.pt")
    second = begun()
    second.resume(torch.load(tmp_path / "state.pt", weights_only=True))
    list(train(second, BATCHES, closeness))
    assert all(map(torch.equal, everything(whole), everything(second)))
    assert whole.score == second.score


def test_training_moves_gates_and_keeps_the_best() -> None:
    training = begun(steps=40, every=10, average=0.9)
    before = {name: gate.widen.detach().clone() for name, gate in gates(training.prepared).items()}
    records = list(train(training, BATCHES, closeness))
    assert max(record.psnr for record in records) > records[0].psnr
    with torch.no_grad():
        assert closeness(training.prepared) == pytest.approx(training.score, abs=1e-6)
    assert any(not torch.equal(before[name], gate.widen) for name, gate in gates(training.prepared).items())


@pytest.mark.parametrize("network", ["edsr", "esrgan", "imdn", "mixed", "shared"])
def test_a_saved_table_simulates_the_prepared_graph(network: str, tmp_path: Path) -> None:
    training = begun(network)
    for gate in gates(training.prepared).values():
        gate.acts.fill_(value=True)
    for step in range(2):
        training.step(BATCHES(step))
    for quantizer in training.prepared.quantizers.values():
        quantizer.eval()
    table = QuantTable.of(training.prepared)
    table.save(tmp_path / "table.safetensors")
    simulated = table.simulate(networks.graph(network))
    assert not any(parameter.requires_grad for q in simulated.quantizers.values() for parameter in q.parameters())
    image = networks.images(3, 11, 17)
    assert torch.equal(simulated(image), training.prepared(image))
    loaded = QuantTable.load(tmp_path / "table.safetensors")
    for group, state in table.states.items():
        assert all(torch.equal(loaded.states[group][key], tensor) for key, tensor in state.items())


@pytest.mark.parametrize("toolkit", ["torchao", "mqbench"])
def test_recipe_names_it_and_it_trains(toolkit: str) -> None:
    pytest.importorskip(toolkit)
    prepared = prepared_by(toolkit)
    assert isinstance(prepared.quantizers["body.0/relu"], DdtbFakeQuantize)
    assert not isinstance(prepared.quantizers["sub_mean/conv"], DdtbFakeQuantize)
    log = srptq_plugin.train(prepared.module, IMAGES, steps=30, every=10, average=0.9, value_rate=0.05, bound_rate=3e-3)
    assert max(record.psnr for record in log) > log[0].psnr
    assert gates(prepared)
    assert torch.equal(QuantTable.of(prepared).simulate(networks.graph("edsr"))(IMAGES), prepared(IMAGES))


def test_pac_tunes_it_like_bounded() -> None:
    """Tune both by PaC, with the same result."""
    prepared, plain = (prepared_by("torchao", chosen=recipe(activations={"quantizer": kind, "observer": "dbdc"}))
                       for kind in ("ddtb", "bounded"))  # fmt: skip
    for graph in (prepared, plain):
        Registry().reconstruction("pac").load()(graph, IMAGES, epochs=2)
    assert torch.equal(prepared(IMAGES), plain(IMAGES))
    assert isinstance(plain.quantizers["body.0/relu"], BoundedFakeQuantize)


def optioned(options: dict[str, Any]) -> Recipe:
    return recipe(activations={"quantizer": "ddtb", "observer": "dbdc", "quantizer_options": options})


@pytest.mark.parametrize("toolkit", ["torchao", "mqbench"])
@pytest.mark.parametrize("gated", [0, 0.1, 0.5, 1.0])
def test_gated_is_the_share_with_gates(gated: float, toolkit: str) -> None:
    pytest.importorskip(toolkit)
    prepared = prepared_by(toolkit, chosen=optioned({"gated": gated}))
    members = [member for member in prepared.quantizers.values() if isinstance(member, DdtbFakeQuantize)]
    prepared.on_train_begin(IMAGES)
    assert len(gates(prepared)) == (max(1, round(gated * len(members))) if gated else 0)
    assert {member.options["bypassed"] for member in members} == {0.1}


@pytest.mark.parametrize(("bypassed", "steps"), [(0.0, 0), (0.5, 10), (0.85, 17)])
def test_bypassed_is_the_share_without_acting(bypassed: float, steps: int) -> None:
    prepared = prepared_by("torchao", chosen=optioned({"bypassed": bypassed}))
    prepared.on_train_begin(IMAGES)
    (gate, *_) = gates(prepared).values()
    training = Training(prepared, TrainingSettings(steps=20), peak=1.0)
    with training.learning:
        training.learning.take_turns(("weight", "activation"))
        for step in range(steps):
            training.step(BATCHES(step))
        assert not gate.acts
        training.step(BATCHES(steps))
    assert gate.acts


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gaetd": 0.1}, "unknown option 'gaetd'; did you mean 'gated'? choices: bypassed, gated"),
        ({"gated": 1.5}, "gated: 1.5 is not allowed; give a number from 0 to 1"),
        ({"bypassed": "all"}, "bypassed: 'all' is not allowed; give a number from 0 to 1"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(SrptqError, match=re.escape(f"activations.quantizer_options: ddtb: {message}")):
        quantize(optioned(options), images=tmp_path / "nowhere", out=tmp_path / "run")


def test_quantizers_without_options_say_so(tmp_path: Path) -> None:
    chosen = recipe(activations={"quantizer_options": {"gated": 0.1}})
    with pytest.raises(SrptqError, match="bounded: unknown option 'gated'; choices: none"):
        quantize(chosen, images=tmp_path / "nowhere", out=tmp_path / "run")


@pytest.mark.parametrize("target", ["openvino", "onnxruntime", "tensorrt", "snpe"])
def test_integer_targets_refuse_it(target: str, tmp_path: Path) -> None:
    chosen = Recipe.model_validate({"target": target, "activations": {"quantizer": "ddtb"}})
    with pytest.raises(SrptqError, match=r"activations\.quantizer: ddtb computes its levels .*; set it to bounded"):
        quantize(chosen, images=tmp_path / "nowhere", out=tmp_path / "run")


def test_weights_are_refused(tmp_path: Path) -> None:
    chosen = Recipe.model_validate({"target": "paper", "weights": {"quantizer": "ddtb"}})
    with pytest.raises(
        SrptqError, match=r"weights\.quantizer: ddtb: its bounds go by the image, .*; set it to bounded"
    ):
        quantize(chosen, images=tmp_path / "nowhere", out=tmp_path / "run")


CALIBRATION = {"patches": 4, "size": 16, "batch": 2}
TRAINING = {"steps": 6, "every": 2, "batch": 2, "patch": 16, "value_rate": 0.05, "bound_rate": 2e-3}
SHORT: dict[str, Any] = {"calibration": CALIBRATION, "training": TRAINING}


@pytest.fixture
def low(tmp_path: Path) -> Path:
    for n in range(4):
        save(pixels(24, 30, seed=n), tmp_path / "low" / f"{n}.png")
    return tmp_path / "low"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Make a run with bounded quantizers, their bounds tuned."""
    pytest.importorskip("torchao")
    chosen = recipe(activations={"observer": "dbdc"}, reconstruction={"name": "pac", "epochs": 1}, **SHORT)
    return quantize(chosen, model=networks.network("edsr"), out=tmp_path_factory.mktemp("ddtb") / "run")


def test_starts_from_a_bounded_or_gated_run(run: Run, low: Path, tmp_path: Path) -> None:
    one = train_run(recipe(**SHORT), run.folder, images=low, out=tmp_path / "one")
    assert one.summary["training"]["psnr"] >= one.summary["training"]["psnr_before"]
    assert set(one.table.states) == {site["group"] for site in one.summary["sites"] if site["dynamic"]}
    still = recipe(calibration=CALIBRATION, training={**TRAINING, "steps": 1, "value_rate": 0.0, "bound_rate": 0.0})
    two = train_run(still, one.folder, images=low, out=tmp_path / "two")
    gated = [group for group, state in two.table.states.items() if "gate.narrow" in state]
    assert gated == [group for group, state in one.table.states.items() if "gate.narrow" in state]
    assert two.summary["training"]["psnr_before"] == pytest.approx(one.summary["training"]["psnr"], abs=1e-4)


@pytest.fixture
def gated(run: Run, low: Path, tmp_path: Path) -> Run:
    """Train bounds and gates only, so that they are the whole difference between the runs."""
    chosen = recipe(calibration=CALIBRATION, training={**TRAINING, "value_rate": 0.0})
    return train_run(chosen, run.folder, images=low, out=tmp_path / "gated")


def prepared_model(chosen: Recipe) -> torch.fx.GraphModule:
    """Prepare as a script for torchao does."""
    quantizer = pytest.importorskip("srptq_adapters.torchao").SRQuantizer.from_recipe(chosen)
    flow = pytest.importorskip("torchao.quantization.pt2e.quantize_pt2e")
    return flow.prepare_pt2e(torch.export.export(networks.folded("edsr"), (IMAGES,)).module(), quantizer)


def test_initialize_takes_over_gates(gated: Run, caplog: pytest.LogCaptureFixture) -> None:
    model = prepared_model(recipe())
    assert not srptq_plugin.initialize(model, gated.folder).left
    assert "gates" not in caplog.text
    restored = {
        module.name: module.gate for module in model.modules() if isinstance(module, DdtbFakeQuantize) and module.gate
    }
    assert set(restored) == {group for group, state in gated.table.states.items() if "gate.narrow" in state}
    assert model(IMAGES).detach().numpy() == pytest.approx(gated.simulation()(IMAGES.numpy()), abs=1e-6)


def test_restored_gates_judge_each_image_alone() -> None:
    one, other = (
        DdtbFakeQuantize("x", IntGrid(2, float_zero_point=True), bounds=Bounds.of(-1.0, 1.5)) for _ in range(2)
    )
    one.give_gate(Gate(3))
    for quantizer in (one, other):
        quantizer.restore(one.state())
        quantizer.set_mode(Mode.QUANTIZE)
        quantizer.on_progress(1.0)
    with torch.no_grad():
        whole = other(IMAGES)
        assert torch.equal(other(IMAGES[:1]), whole[:1])
        assert torch.equal(whole, one(IMAGES))
    assert all(map(torch.equal, one.state().values(), other.state().values()))


def test_no_auxiliary_loss_outside_of_training_steps() -> None:
    training = begun()
    (gated, *_) = (quantizer for quantizer in training.prepared.quantizers.values() if getattr(quantizer, "gate", None))
    gated.train()
    training.prepared(IMAGES)
    assert gated.auxiliary_loss() is None


def test_initialize_names_gates_without_a_place(gated: Run, caplog: pytest.LogCaptureFixture) -> None:
    srptq_plugin.initialize(prepared_model(recipe(activations={"observer": "dbdc"})), gated.folder)
    (group, *_) = (group for group, state in gated.table.states.items() if "gate.narrow" in state)
    assert re.search(rf"has gates for .*{re.escape(group)}.*, which these have not; prepare with its rec", caplog.text)


def test_an_interrupted_run_resumes_to_the_same_file(run: Run, low: Path, tmp_path: Path) -> None:
    def interrupt(what: str, done: int, _total: int) -> None:
        if what == "training" and done == 3:
            raise KeyboardInterrupt

    whole = train_run(recipe(**SHORT), run.folder, images=low, out=tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train_run(recipe(**SHORT), run.folder, images=low, out=tmp_path / "parts", progress=interrupt)
    parts = train_run(recipe(**SHORT), run.folder, images=low, out=tmp_path / "parts", resume=True)
    table = "quant_table.safetensors"
    assert (parts.folder / table).read_bytes() == (whole.folder / table).read_bytes()
