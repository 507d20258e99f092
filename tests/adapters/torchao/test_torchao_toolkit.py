"""torchao realizes the core's plan with the same bits, also after `convert_pt2e`."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import onnx
import pytest
import torch
from helpers import networks
from onnx import numpy_helper
from torch import Tensor, fx

from srptq_plugin.deploy.onnx_export import OnnxNetwork
from srptq_plugin.deploy.qdq import Placer
from srptq_plugin.deploy.quant_table import QuantTable
from srptq_plugin.errors import SrptqError
from srptq_plugin.graph.network import Network, tensor_arguments
from srptq_plugin.planning.plan import Plan, Site
from srptq_plugin.planning.prepared_graph import PreparedGraph
from srptq_plugin.reconstruction.pac import reconstruct

pytest.importorskip("torchao")

from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e

from srptq_adapters.torchao import TorchaoToolkit

Run = Callable[[Any, Tensor], Tensor]
CASES = [
    ("edsr", 8, "openvino"),
    ("edsr", 4, "openvino"),
    ("mixed", 4, "onnxruntime"),
    ("imdn", 8, "onnxruntime"),
    ("esrgan", 4, "openvino"),
    ("shared", 8, "openvino"),
    ("scaled", 4, "onnxruntime"),
    ("bicubic", 8, "onnxruntime"),
    ("espcn", 8, "onnxruntime"),
    ("rdn", 8, "tensorrt"),
    ("rrdb", 8, "snpe"),
    ("tokens", 8, "onnxruntime"),
]
BATCHES = [networks.images(seed=seed) for seed in (1, 2)]
Parameters = tuple[Tensor, Tensor]


@dataclass
class Both:
    """A plan, realized by the core alone and by torchao."""

    kind: str
    plan: Plan
    core: PreparedGraph
    torchao: PreparedGraph


@pytest.fixture(scope="module", params=CASES, ids=lambda case: "-".join(map(str, case)))
def both(request: pytest.FixtureRequest) -> Both:
    kind, bits, target = request.param
    plan = networks.plan(kind, networks.recipe(bits, target, activations={"observer": "dbdc"}))
    core = networks.realize(kind, plan)
    torchao = TorchaoToolkit().realize(networks.exported(kind), plan)
    for prepared in (core, torchao):
        prepared.observe(BATCHES)
        reconstruct(prepared, networks.images(4, seed=3), epochs=1, schedule="joint", activation_rate=1e-2)
    return Both(kind, plan, core, torchao)


def test_both_observe_and_tune_the_same_bounds(both: Both) -> None:
    assert set(both.core.quantizers) == set(both.torchao.quantizers)
    for name, quantizer in both.core.quantizers.items():
        other = both.torchao.quantizers[name]
        assert torch.equal(quantizer.lower, other.lower), name
        assert torch.equal(quantizer.upper, other.upper), name


@pytest.mark.parametrize("size", [(2, 12, 14), (1, 17, 9)])
def test_both_draw_the_same_bits(both: Both, size: tuple[int, int, int]) -> None:
    image = networks.images(*size)
    assert torch.equal(both.core(image), both.torchao(image))
    one, other = (prepared.float_forward(image) for prepared in (both.core, both.torchao))
    assert torch.equal(one[0], other[0])
    assert all(map(torch.equal, one[1], other[1]))


def converted(both: Both) -> fx.GraphModule:
    """Convert a copy, as conversion takes the prepared graph apart."""
    again = TorchaoToolkit().realize(networks.exported(both.kind), both.plan)
    for name, quantizer in again.quantizers.items():
        quantizer.load_state_dict(both.torchao.quantizers[name].state_dict())
    return convert_pt2e(again.module)


def constant(module: fx.GraphModule, argument: Any) -> Tensor:
    if not isinstance(argument, fx.Node):
        return torch.tensor(argument)
    owner, _, leaf = str(argument.target).rpartition(".")
    return getattr(module.get_submodule(owner), leaf)


def read_from(module: fx.GraphModule, site: Site) -> Iterator[fx.Node]:
    """Yield the dequantize node at each consumer of a site."""
    network = Network(module)
    for edge in site.consumers:
        yield tensor_arguments(network.nodes[edge.consumer])[edge.input_index]


def converted_parameters(module: fx.GraphModule, site: Site) -> Iterator[Parameters]:
    for node in read_from(module, site):
        assert "dequantize" in str(node.target)
        yield constant(module, node.args[1]).float(), constant(module, node.args[2])


def file_parameters(model: onnx.ModelProto, site: Site) -> Iterator[Parameters]:
    named = OnnxNetwork(model).nodes
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    producers = {name: node for node in model.graph.node for name in node.output}
    for edge in site.consumers:
        if edge.consumer in named:
            node = producers[named[edge.consumer].input[edge.input_index]]
            assert node.op_type == "DequantizeLinear"
            scale, zero_point = (torch.tensor(constants[name]) for name in node.input[1:])
            yield scale, zero_point


def test_converted_graph_draws_the_same_bits(both: Both, output: Run) -> None:
    module = converted(both)
    for size in ((2, 12, 14), (1, 17, 9)):
        image = networks.images(*size)
        assert (output(module, image) - both.torchao(image)).abs().max() == 0


def test_parameters_equal_prepared_converted_and_in_file(both: Both) -> None:
    table = QuantTable.of(both.torchao)
    module = converted(both)
    model = Placer(networks.float_model(both.kind), table).place()
    for site in both.plan.sites:
        expected = table.qparams[site.name]
        for scale, zero_point in (*converted_parameters(module, site), *file_parameters(model, site)):
            assert torch.equal(scale, expected.scale), site.name
            assert torch.equal(zero_point.to(torch.int32), expected.integer_zero_point), site.name


def test_integer_weights_equal_prepared_and_converted(both: Both) -> None:
    table = QuantTable.of(both.torchao)
    module = converted(both)
    for site in both.plan.sites:
        if site.role == "weight":
            (stored, *_) = (constant(module, node.args[0]) for node in read_from(module, site))
            assert stored.dtype == torch.int8
            assert torch.equal(stored.to(torch.int32), table.weights[site.name])


def test_table_simulates_the_prepared_graph(both: Both) -> None:
    table = QuantTable.of(both.torchao)
    exact = replace(table, plan=replace(table.plan, integer_bias=False))
    image = networks.images(seed=9)
    assert torch.equal(exact.simulate(networks.graph(both.kind))(image), both.torchao(image))


def test_paper_runs_and_convert_refuses_it() -> None:
    plan = networks.plan("edsr", networks.recipe(4, "paper"))
    prepared = TorchaoToolkit().realize(networks.exported("edsr"), plan)
    prepared.observe(BATCHES)
    core = networks.realize("edsr", plan)
    core.observe(BATCHES)
    assert torch.equal(prepared(BATCHES[0]), core(BATCHES[0]))
    with pytest.raises(SrptqError, match=r"convert_pt2e: the paper's real offset is no integer grid; use a recipe"):
        convert_pt2e(prepared.module)


def test_toolkit_has_a_version() -> None:
    assert TorchaoToolkit().version[0].isdigit()
