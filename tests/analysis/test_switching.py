"""A partly quantized network computes what a prepared graph computes whose quantizers are switched one by one."""

from copy import deepcopy
from functools import cache

import pytest
import torch
from helpers import networks
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

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
def test_any_part_can_be_quantized(data: st.DataObject, kind: str) -> None:
    prepared, partly = case(kind)
    images = networks.images(2)
    groups = st.frozensets(st.sampled_from(sorted(partly.groups)))
    on, switched = data.draw(groups), data.draw(groups)
    trace = partly.trace(images, on)
    assert torch.equal(trace.output, reference(prepared, on, images))
    assert torch.equal(trace.switched(switched), reference(prepared, on ^ switched, images))
    assert torch.equal(trace.switched(()), trace.output)


def test_tuned_bias_is_switched_with_its_weight() -> None:
    prepared = networks.calibrated("edsr", 8)
    plain = networks.calibrated("edsr", 8)
    conv, bias = next(iter(prepared.biases.items()))
    bias.data += 0.25
    table, graph = QuantTable.of(prepared), networks.graph("edsr")
    assert conv in table.biases
    partly = PartlyQuantized(table, graph)
    weight = next(site for site in table.plan.weights if site.consumers[0].consumer == conv)
    images = networks.images(2)
    float_output = partly.trace(images, frozenset())
    assert torch.equal(float_output.output, reference(plain, frozenset(), images))
    assert torch.equal(float_output.switched({weight.group}), reference(prepared, frozenset({weight.group}), images))


@pytest.mark.parametrize("target", ["onnxruntime", "tensorrt", "snpe"])
def test_fully_quantized_is_the_simulation(target: str) -> None:
    table, graph = QuantTable.of(networks.calibrated("edsr", 8, target)), networks.graph("edsr")
    partly, images = PartlyQuantized(table, graph), networks.images(2)
    with torch.no_grad():
        simulated = table.simulate(graph)(images)
    assert torch.equal(partly.trace(images, partly.groups).output, simulated)
    assert torch.equal(partly.trace(images, frozenset()).switched(partly.groups), simulated)


def test_unreached_nodes_are_not_recomputed() -> None:
    prepared, _ = case("edsr")
    graph, images = deepcopy(networks.graph("edsr")), networks.images(1)
    partly = PartlyQuantized(QuantTable.of(prepared), graph)
    trace = partly.trace(images, frozenset())
    output = trace.switched({"tail.weight"})
    with torch.no_grad():
        graph.get_parameter("head.weight").fill_(torch.nan)
    assert torch.equal(trace.switched({"tail.weight"}), output)
    assert partly.trace(images, frozenset()).output.isnan().all()
