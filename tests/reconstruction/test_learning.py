"""Weights and biases that learn with the bounds: the parameters that change, and the files that hold them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import networks
from helpers.trainings import batch, begun
from torch import Tensor

from srptq_plugin.deploy.quant_table import QuantTable
from srptq_plugin.graph.network import Network
from srptq_plugin.planning.prepared_graph import PreparedGraph
from srptq_plugin.qat.training import train
from srptq_plugin.quantization.quantizer import BoundedFakeQuantize, fake_quantize
from srptq_plugin.reconstruction.learning import Learning, Rates, Weights
from srptq_plugin.reconstruction.pac import reconstruct

IMAGES = networks.images(6, seed=3)


def tuned(kind: str = "edsr", bits: int = 4, weights: Weights = "free", **options: Any) -> PreparedGraph:
    prepared = networks.calibrated(kind, bits, "onnxruntime")
    settings: dict[str, Any] = {"schedule": "joint", "epochs": 4, **options}
    reconstruct(prepared, IMAGES, weights=weights, **settings)
    return prepared


def values(prepared: PreparedGraph) -> dict[str, Tensor]:
    sites = (site for site in prepared.plan.sites if site.role == "weight")
    return {site.name: prepared.parameter(site).detach().clone() for site in sites}


def test_only_free_weights_and_biases_learn() -> None:
    prepared = tuned()
    before = networks.network("edsr").state_dict()
    after = {name: p for name, p in prepared.module.named_parameters() if "srptq_site" not in name}
    changed = {name for name, p in after.items() if not torch.equal(p, before[name])}
    planned = {conv.removesuffix("/conv") for conv in prepared.plan.convs}
    assert changed == {f"{path}.{leaf}" for path in planned for leaf in ("weight", "bias")}


def test_the_teacher_of_free_weights_stays_unchanged() -> None:
    prepared = networks.calibrated("edsr", 4, "onnxruntime")
    float_before, program = prepared.float_forward(IMAGES)[0], networks.exported("edsr").module()(IMAGES)
    reconstruct(prepared, IMAGES, weights="free", schedule="joint", epochs=2)
    assert torch.equal(prepared.float_forward(IMAGES)[0], float_before)
    assert torch.equal(networks.exported("edsr").module()(IMAGES), program)


@pytest.mark.parametrize("changed", [{}, {"region_weight": 0.0, "recolor": False}])
def test_learned_weights_lower_the_loss_further(changed: dict[str, Any]) -> None:
    losses: dict[str, float] = {}
    for weights in ("fixed", "rounding", "free"):
        prepared = networks.calibrated("edsr", 3, "onnxruntime")
        options: dict[str, Any] = {"schedule": "joint", "epochs": 20, "value_rate": 0.1, **changed}
        losses[weights] = reconstruct(prepared, IMAGES, weights=weights, **options)["loss_after"]
    assert max(losses["rounding"], losses["free"]) < 0.8 * losses["fixed"]
    assert losses["free"] < losses["rounding"] or not changed


def test_rounding_takes_a_neighboring_level() -> None:
    start = networks.calibrated("edsr", 3, "onnxruntime")
    before, grids = values(start), start.qparams()
    prepared = tuned(bits=3, weights="rounding", epochs=20, value_rate=0.2, weight_rate=0.0)
    moved = 0
    for name, weight in values(prepared).items():
        step = grids[name].scale.reshape(-1, 1, 1, 1)
        real = fake_quantize(weight, prepared.qparams()[name])
        inside = (before[name] - before[name].clamp(-3 * step, 3 * step)).abs() < 1e-9
        assert ((real - before[name]).abs() <= step * 1.001)[inside].all()
        moved += int((real != fake_quantize(before[name], grids[name])).sum())
    assert moved > 10
    assert not prepared.tuned_biases()


@pytest.mark.parametrize("kind", ["edsr", "imdn", "shared"])
def test_a_table_simulates_tuned_weights(kind: str, tmp_path: Path) -> None:
    prepared = networks.calibrated(kind, 4, "openvino")
    reconstruct(prepared, IMAGES, weights="free", schedule="joint", epochs=2)
    table = QuantTable.of(prepared)
    table.save(tmp_path / "table")
    loaded = QuantTable.load(tmp_path / "table")
    assert set(loaded.biases) == set(prepared.plan.convs)
    network = networks.graph(kind)
    plain = network(IMAGES)
    assert torch.equal(loaded.simulate(network)(IMAGES), prepared(IMAGES))
    assert torch.equal(network(IMAGES), plain)


def test_the_same_seed_gives_the_same_weights() -> None:
    first, second = (values(tuned(epochs=2)) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_better_start_is_restored_with_weights() -> None:
    before = values(networks.calibrated("edsr", 4, "onnxruntime"))
    prepared = tuned(value_rate=50.0, epochs=1)
    assert all(torch.equal(weight, before[name]) for name, weight in values(prepared).items())
    assert not prepared.tuned_biases()


def test_weights_learn_in_their_turn_only() -> None:
    seen: list[dict[str, Tensor]] = []
    prepared = networks.calibrated("edsr", 4, "onnxruntime")

    def look(stage: str, done: int, _total: int) -> None:
        if stage == "tuning" and done % 3 == 0:
            seen.append(values(prepared))

    reconstruct(prepared, IMAGES, progress=look, weights="free", epochs=2, schedule="alternating")
    first, second, third = seen
    assert not any(torch.equal(first[name], second[name]) for name in first)
    assert all(torch.equal(second[name], third[name]) for name in second)


def test_weights_out_of_turn_are_quantized_once() -> None:
    prepared = networks.calibrated("edsr", 4, "onnxruntime")
    site = next(site for site in prepared.plan.weights if not prepared.quantizers[site.group].fixed)
    weight, quantizer = prepared.parameter(site), prepared.quantizers[site.group]
    with Learning(prepared, Rates(1e-3, 1e-3, "relative", 0.02)) as learning:
        learning.take_turns(("activation",))
        assert quantizer(weight) is quantizer(weight)
        learning.take_turns(("weight",))
        assert quantizer(weight) is not quantizer(weight)
    assert quantizer(weight) is not quantizer(weight)


def relus(prepared: PreparedGraph) -> list[BoundedFakeQuantize]:
    """Return the quantizers of tensors that are never negative."""
    network, groups = Network(prepared.module), prepared.plan.groups
    sources = {group: groups[group][0].source for group in prepared.of_role("activation")}
    return [prepared.quantizers[group] for group, key in sources.items() if network.is_nonnegative(network.nodes[key])]


def test_pac_keeps_zero_under_nonnegative_tensors() -> None:
    assert_zero_kept(tuned(bits=8, schedule="alternating", activation_rate=0.02, epochs=2))


def test_training_keeps_zero_under_nonnegative_tensors() -> None:
    training = begun(networks.calibrated("edsr", 4, "onnxruntime"), bound_rate=0.05)
    list(train(training, batch, lambda _: float(training.done)))
    assert_zero_kept(training.prepared)


def assert_zero_kept(prepared: PreparedGraph) -> None:
    assert len(relus(prepared)) == 2
    for quantizer in relus(prepared):
        assert quantizer.observed is not None
        assert not torch.isclose(quantizer.upper, quantizer.observed.upper, rtol=1e-3)
        assert float(quantizer.lower.detach()) == 0
        assert quantizer.qparams().zero_point == quantizer.grid.qmin


def test_float_zero_points_learn_under_nonnegative_tensors() -> None:
    prepared = networks.calibrated("edsr", 4, "paper")
    reconstruct(prepared, IMAGES, activation_rate=0.02, epochs=1)
    assert all(float(quantizer.lower.detach()) != 0 for quantizer in relus(prepared))
