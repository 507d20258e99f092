"""Training in a toolkit's own flow, between its prepare and its convert."""

from typing import Any

import pytest
import torch
from helpers import networks
from torch import Tensor, fx

import srptq_plugin
from srptq_plugin.errors import SrptqError
from srptq_plugin.plugins.registry import Registry

pytest.importorskip("torchao")

from torchao.quantization.pt2e import disable_observer, enable_fake_quant
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e, prepare_qat_pt2e

from srptq_adapters.torchao import SRQuantizer

LOW = networks.images(20, 12, 12, seed=5)
STRONG: dict[str, Any] = {"value_rate": 0.05, "bound_rate": 2e-3}
TOOLKITS = ["torchao", "mqbench"]


BROKEN = LOW.clone()
BROKEN[3, 0, 2, 2] = torch.nan
MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"stesp": 3}, r"training.stesp: unknown key; did you mean 'steps'\? keys: average, .*value_rate"),
    ({"loss": "mse"}, "training.loss: 'mse' is not allowed; give 'l1' or 'rms'"),
    ({"every": 0}, "training.every: 0 is not allowed; give a whole number from 1"),
    ({"steps": -3}, "training.steps: -3 is not allowed; give a whole number from 1"),
    ({"average": 1.5}, "training.average: 1.5 is not allowed; give a number of 0 or more and less than 1"),
    ({"batch": 0}, "training.batch: 0 is not allowed; give a whole number from 1"),
    ({"patch": 16}, "patch: the patches are given"),
]
PATCHES: list[tuple[tuple[Tensor, ...], str]] = [
    ((BROKEN,), "low: NaN or infinite values in patch 3"),
    ((LOW, BROKEN), "high: NaN or infinite values in patch 3"),
    ((LOW.mul(255).byte(),), "low: torch.uint8 of shape"),
    ((LOW, LOW[:, :1]), r"high: patches \(1, 12, 12\); from these low ones the network draws \(3,"),
]


def calibrated(toolkit: str = "torchao") -> fx.GraphModule:
    if toolkit == "mqbench":
        pytest.importorskip("mqbench")
    plan = networks.plan("edsr", networks.recipe(3, "onnxruntime"))
    prepared = Registry().toolkit(toolkit).load().realize(networks.exported("edsr"), plan)
    prepared.observe([LOW[:10], LOW[10:]])
    return prepared.module


def high() -> Tensor:
    with torch.no_grad():
        return networks.network("edsr")(LOW) + 0.05


@pytest.mark.parametrize("toolkit", TOOLKITS)
@pytest.mark.parametrize("labeled", [False, True])
def test_psnr_to_teacher_or_labels_rises(toolkit: str, *, labeled: bool) -> None:
    log = srptq_plugin.train(
        calibrated(toolkit), LOW, high() if labeled else None, steps=40, every=20, average=0.9, **STRONG
    )
    assert [record.step for record in log] == [0, 20, 40]
    assert max(record.psnr for record in log) > log[0].psnr + 0.5


def test_torchao_converts_the_trained_model() -> None:
    module = torch.export.export(networks.folded("edsr"), (LOW[:2],)).module()
    prepared = prepare_pt2e(module, SRQuantizer.from_recipe(networks.recipe(4, "onnxruntime")))
    prepared(LOW[:2])
    srptq_plugin.train(prepared, LOW[:2].repeat(2, 1, 1, 1), steps=4, every=2, batch=2)
    with torch.no_grad():
        trained = prepared(LOW[:2])
        assert torch.allclose(convert_pt2e(prepared)(LOW[:2]), trained, atol=1e-5)


@pytest.mark.parametrize("kind", ["bounded", "pams", "fqsr"])
def test_torchaos_training_flow_learns_and_converts(kind: str) -> None:
    module = torch.export.export(networks.folded("edsr"), (LOW[:2],)).module()
    recipe = networks.recipe(4, "onnxruntime", activations={"quantizer": kind})
    prepared = prepare_qat_pt2e(module, SRQuantizer.from_recipe(recipe))
    with torch.no_grad():
        target = prepared(LOW[:2])
    prepared.apply(disable_observer)
    prepared.apply(enable_fake_quant)
    optimizer = torch.optim.Adam([parameter for parameter in prepared.parameters() if parameter.requires_grad], 1e-3)
    losses: list[float] = []
    for _ in range(6):
        optimizer.zero_grad()
        loss = (prepared(LOW[:2]) - target).abs().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert min(losses[1:]) < losses[0]
    with torch.no_grad():
        trained = prepared(LOW[:2])
        assert torch.allclose(convert_pt2e(prepared)(LOW[:2]), trained, atol=1e-5)


def test_sites_without_bounds_observe_first() -> None:
    recipe = networks.recipe(8, "onnxruntime")
    prepared = Registry().toolkit("torchao").load().realize(networks.exported("edsr"), networks.plan("edsr", recipe))
    log = srptq_plugin.train(prepared.module, LOW, steps=2, every=2)
    assert log[0].psnr > 25
    assert all(quantizer.has_bounds for quantizer in prepared.quantizers.values())


def test_same_seed_gives_the_same_bits() -> None:
    one, other = calibrated(), calibrated()
    for module in (one, other):
        srptq_plugin.train(module, LOW, steps=4, every=4, seed=3)
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    assert all(torch.equal(first, second) for first, second in pairs)


def test_mistakes_are_named() -> None:
    with pytest.raises(SrptqError, match="no fake-quantizer in the graph"):
        srptq_plugin.train(networks.graph("edsr"), LOW)
    with pytest.raises(SrptqError, match=r"20 low and 3 high ones; give"):
        srptq_plugin.train(calibrated(), LOW, high()[:3])
    for options, message in MISTAKES:
        with pytest.raises(SrptqError, match=message):
            srptq_plugin.train(calibrated(), LOW, **options)
    for patches, message in PATCHES:
        with pytest.raises(SrptqError, match=message):
            srptq_plugin.train(calibrated(), *patches, steps=1)


@pytest.mark.parametrize("toolkit", TOOLKITS)
def test_teacher_stays_the_float_network(toolkit: str) -> None:
    module = calibrated(toolkit)
    strong: dict[str, Any] = {"steps": 10, "every": 10, "average": 0.9, "value_rate": 0.2}
    srptq_plugin.train(module, LOW, **strong)
    with torch.no_grad():
        target, output = networks.network("edsr")(LOW[-1:]), module(LOW[-1:])
    error = ((output[0] if isinstance(output, tuple) else output) - target).square().mean()
    psnr = float(10 * torch.log10((LOW.max() - LOW.min()) ** 2 / error))
    assert srptq_plugin.train(module, LOW, **strong)[0].psnr == pytest.approx(psnr, abs=1e-3)


def test_diverged_trainings_leave_the_best_state() -> None:
    module = calibrated()
    with torch.no_grad():
        before = module(LOW)
    with pytest.raises(SrptqError, match="the loss of step 1 is inf; lower value_rate or bound_rate"):
        srptq_plugin.train(module, LOW, torch.full_like(high(), 3e38))
    with torch.no_grad():
        assert torch.equal(module(LOW), before)
