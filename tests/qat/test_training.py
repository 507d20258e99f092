"""Training a prepared graph: the parameters that move, the state that stays, and resuming to the bit."""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import networks, saturating
from helpers.photographs import pixels
from torch import Tensor

from srptq_plugin.data.images import Image
from srptq_plugin.deploy.quant_table import QuantTable
from srptq_plugin.errors import SrptqError
from srptq_plugin.planning.prepared_graph import PreparedGraph
from srptq_plugin.qat.batches import Batch, Patches
from srptq_plugin.qat.training import Training, Validation, train
from srptq_plugin.recipes.schema import TrainingSettings

IMAGES = networks.images(3, 24, 24, seed=7)
BATCHES = Patches([Image(str(n), pixels(24, 30, n)) for n in range(3)], None, 2, 16, 2, networks.UNIT)
STRONG = {"value_rate": 0.05, "bound_rate": 2e-3}


def started(**options: Any) -> Training:
    prepared = networks.calibrated("edsr", 3, "onnxruntime")
    chosen: dict[str, Any] = {"steps": 6, "every": 2, **options}
    return Training(prepared, TrainingSettings(**chosen), peak=1.0)


def closeness(prepared: PreparedGraph) -> float:
    """Compute the PSNR to the float network."""
    error = prepared(IMAGES) - prepared.float_forward(IMAGES)[0]
    return -10 * float(error.square().mean().log10())


def run(training: Training) -> list[Validation]:
    return list(train(training, BATCHES, closeness))


def learned(training: Training) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in training.learned]


def test_psnr_to_the_float_network_rises() -> None:
    training = started(steps=60, every=20, average=0.9, loss="rms", **STRONG)
    records = run(training)
    assert [record.step for record in records] == [0, 20, 40, 60]
    assert records[0].loss is None
    scores = [record.psnr for record in records]
    assert max(scores[1:]) > scores[0] + 1
    with torch.no_grad():
        assert closeness(training.prepared) == pytest.approx(max(scores), abs=1e-6)


def test_labels_take_the_teachers_place() -> None:
    training = started()
    low, _ = BATCHES(0)
    labels = training.prepared.float_forward(low)[0] + 0.1
    with training.learning:
        training.learning.take_turns(("weight", "activation"))
        assert training.step((low, labels)) > 255 * 0.08


def test_an_interrupted_training_ends_with_the_same_bits(tmp_path: Path) -> None:
    whole = started(**STRONG)
    run(whole)
    first = started(**STRONG)
    records = train(first, BATCHES, closeness)
    assert [next(records).step for _ in range(2)] == [0, 2]
    torch.save(first.state(), tmp_path / "state.pt")
    second = started(**STRONG)
    second.resume(torch.load(tmp_path / "state.pt", weights_only=True))
    assert [record.step for record in run(second)] == [4, 6]
    assert all(map(torch.equal, learned(whole), learned(second)))
    assert whole.score == second.score


def test_training_never_ends_below_its_start() -> None:
    training = started(value_rate=5.0, bound_rate=0.5)
    before = learned(training)
    records = run(training)
    assert max(records, key=lambda record: record.psnr).step == 0
    assert all(map(torch.equal, before, learned(training)))


def test_long_gradients_are_shortened() -> None:
    training = started(clip=2.0)
    with training.learning:
        training.learning.take_turns(("weight", "activation"))
        low, _ = BATCHES(0)
        for _ in range(4):
            training.step((low, None))
        usual = training.usual
        training.step((low, training.prepared.float_forward(low)[0] + 1e4))
        norms = torch.stack(
            [parameter.grad.norm().float() for parameter in training.learned if parameter.grad is not None]
        )
        assert float(norms.norm()) <= 2.02 * usual


def test_only_quantized_layers_learn() -> None:
    training = started(**STRONG)
    names = dict(training.prepared.module.named_parameters())
    before = {name: parameter.detach().clone() for name, parameter in names.items()}
    with training.learning:
        training.learning.take_turns(("weight", "activation"))
        for step in range(3):
            training.step(BATCHES(step))
    moved = {name for name, parameter in names.items() if not torch.equal(before[name], parameter)}
    assert {"head.weight", "head.bias", "tail.weight", "body.0.first.weight"} <= moved
    assert not {"sub_mean.weight", "add_mean.bias"} & moved
    fixed = training.prepared.quantizers["sub_mean/conv"]
    assert fixed.fixed
    assert len(moved) > len(training.prepared.quantizers)


def test_checkpoints_of_other_trainings_are_refused() -> None:
    state = started().state()
    with pytest.raises(SrptqError, match="of another training"):
        started(steps=8).resume(state)


def test_weights_never_overflow_while_they_learn() -> None:
    """Train with eight bits and a high rate. The integers of each step must be safe without VNNI."""
    prepared = networks.calibrated("edsr", 8, "onnxruntime")
    training = Training(prepared, TrainingSettings(steps=6, every=2, value_rate=2.0), peak=1.0)
    before, changed = QuantTable.of(prepared).weights, list[bool]()

    def checked(step: int) -> Batch:
        weights = QuantTable.of(prepared).weights
        changed.append(any(not torch.equal(weights[name], before[name]) for name in weights))
        assert not any(saturating.overflows(weight.numpy()) for weight in weights.values())
        return BATCHES(step)

    list(train(training, checked, closeness))
    assert changed == [False, True, True, True, True, True]
