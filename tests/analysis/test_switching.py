"""A partly quantized network against a prepared graph whose quantizers are switched one by one."""

from functools import cache
from typing import Any

import pytest
import torch
from helpers import networks
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, fx

from srptq_plugin.analysis.switching import PartlyQuantized
from srptq_plugin.deploy.quant_table import QuantTable
from srptq_plugin.planning.prepared_graph import PreparedGraph
from srptq_plugin.quantization.quantizer import Mode

KINDS = ("edsr", "imdn", "shared", "esrgan")


@cache
def case(kind: str) -> tuple[PreparedGraph, PartlyQuantized]:
    prepared = networks.calibrated(kind, 4)
    return prepared, PartlyQuantized(QuantTable.of(prepared), networks.graph(kind))


def reference(prepared: PreparedGraph, on: frozenset[str], images: Tensor) -> Tensor:
    for group, quantizer in prepared.quantizers.items():
        quantizer.set_mode(Mode.QUANTIZE if group in on else Mode.OFF)
    with torch.no_grad():
        return prepared(images)


@given(data=st.data(), kind=st.sampled_from(KINDS))
def test_any_part_quantized_is_that_part_quantized(data: st.DataObject, kind: str) -> None:
    prepared, partly = case(kind)
    images = networks.images(2)
    groups = st.frozensets(st.sampled_from(sorted(partly.groups)))
    on, switched = data.draw(groups), data.draw(groups)
    kept = partly.kept(images, on)
    assert torch.equal(kept.output, reference(prepared, on, images))
    assert torch.equal(kept.switched(switched), reference(prepared, on ^ switched, images))
    assert torch.equal(kept.switched(()), kept.output)


def test_a_tuned_bias_is_switched_with_its_weight() -> None:
    prepared = networks.calibrated("edsr", 8)
    plain = networks.calibrated("edsr", 8)
    conv, bias = next(iter(prepared.biases.items()))
    bias.data += 0.25
    table, graph = QuantTable.of(prepared), networks.graph("edsr")
    assert conv in table.biases
    partly = PartlyQuantized(table, graph)
    weight = next(site for site in table.plan.weights if site.consumers[0].consumer == conv)
    images = networks.images(2)
    float_output = partly.kept(images, frozenset())
    assert torch.equal(float_output.output, reference(plain, frozenset(), images))
    assert torch.equal(float_output.switched({weight.group}), reference(prepared, frozenset({weight.group}), images))


@pytest.mark.parametrize("target", ["onnxruntime", "tensorrt", "snpe"])
def test_all_of_it_quantized_is_the_simulation(target: str) -> None:
    table, graph = QuantTable.of(networks.calibrated("edsr", 8, target)), networks.graph("edsr")
    partly, images = PartlyQuantized(table, graph), networks.images(2)
    with torch.no_grad():
        simulated = table.simulate(graph)(images)
    assert torch.equal(partly.kept(images, partly.groups).output, simulated)
    assert torch.equal(partly.kept(images, frozenset()).switched(partly.groups), simulated)


def test_what_a_change_cannot_reach_is_not_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    _, partly = case("edsr")
    kept = partly.kept(networks.images(1), frozenset())
    computed: list[str] = []
    run = PartlyQuantized.run_node

    def noted(self: PartlyQuantized, n: fx.Node) -> Any:
        computed.append(n.name)
        return run(self, n)

    monkeypatch.setattr(PartlyQuantized, "run_node", noted)
    kept.switched({"tail.weight"})
    assert len([name for name in computed if name.startswith("conv")]) <= 2
