"""DDTB: the places of its gates, when they act, resuming, simulation, and by name in both toolkits."""

from functools import partial
from pathlib import Path

import pytest
import torch
from helpers import networks
from helpers.gated import BATCHES, IMAGES, begun, gates, prepared_by, recipe
from helpers.trainings import everything
from torch import Tensor

import srptq_plugin
from srptq_plugin.deploy.quant_table import QuantTable
from srptq_plugin.planning.prepared_graph import PreparedGraph
from srptq_plugin.plugins.registry import Registry
from srptq_plugin.qat.ddtb import DdtbFakeQuantize, Gate
from srptq_plugin.qat.training import train
from srptq_plugin.quantization.grid import Bounds, IntGrid
from srptq_plugin.quantization.quantizer import BoundedFakeQuantize, Mode


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
