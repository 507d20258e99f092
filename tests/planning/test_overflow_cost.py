"""The cost of safe weights: raised channels, and noise in the image. Measuring changes nothing."""

import pytest
import torch
from helpers import networks, saturating

from srptq_plugin.deploy.quant_table import QuantTable
from srptq_plugin.planning.overflow_cost import overflow_cost
from srptq_plugin.quantization.grid import project, quantize


@pytest.mark.parametrize("kind", ["edsr", "imdn", "rdn"])
def test_channels_that_would_overflow_are_raised(kind: str) -> None:
    prepared, images = networks.calibrated(kind), networks.images(4, seed=1)
    cost = overflow_cost(prepared, images)
    assert cost is not None
    unsafe = 0
    for site in prepared.plan.weights:
        quantizer = prepared.quantizers[site.group]
        assert quantizer.observed is not None
        integers = quantize(prepared.parameter(site).detach(), project(quantizer.observed, quantizer.grid))
        unsafe += sum(saturating.overflows(channel[None].numpy()) for channel in integers)
    assert cost.raised == unsafe > 0
    assert cost.channels == sum(len(prepared.parameter(site)) for site in prepared.plan.weights)


def test_cost_is_the_noise_that_safe_scales_add() -> None:
    prepared, images = networks.calibrated("edsr"), networks.images(4, seed=1)
    plain = networks.calibrated("edsr", weights={"overflow_safe": False})
    teacher = prepared.float_forward(images)[0]
    with torch.no_grad():
        safe, unsafe = ((graph(images) - teacher).double().square().mean() for graph in (prepared, plain))
    cost = overflow_cost(prepared, images)
    assert cost is not None
    assert cost.cost_db == pytest.approx(10 * float(torch.log10(safe / unsafe)), abs=1e-9)


def test_measuring_leaves_the_graph_as_it_was() -> None:
    prepared, images = networks.calibrated("edsr"), networks.images(4, seed=1)
    before, table = prepared(images), QuantTable.of(prepared)
    overflow_cost(prepared, images)
    assert torch.equal(prepared(images), before)
    again = QuantTable.of(prepared)
    assert all(torch.equal(table.qparams[name].scale, again.qparams[name].scale) for name in table.qparams)


@pytest.mark.parametrize("keys", [{"bits": 4}, {"target": "snpe"}])
def test_nothing_to_check_costs_nothing(keys: dict[str, object]) -> None:
    prepared = networks.calibrated("shared", **{"bits": 8, **keys})  # pyright: ignore[reportArgumentType]
    cost = overflow_cost(prepared, networks.images(2))
    assert cost is None or cost.channels < sum(len(prepared.parameter(site)) for site in prepared.plan.weights)
