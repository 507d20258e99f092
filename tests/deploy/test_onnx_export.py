"""The float ONNX file and its Q/DQ nodes: the numbers of the table, and the image in ONNX Runtime."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from helpers import networks
from onnx import ModelProto, NodeProto, numpy_helper
from torch import Tensor

from srptq_plugin.deploy.onnx_export import OPSET, OnnxNetwork, metadata_of
from srptq_plugin.deploy.qdq import Placer
from srptq_plugin.deploy.quant_table import QuantTable
from srptq_plugin.errors import SrptqError
from srptq_plugin.planning.prepared_graph import PreparedGraph
from srptq_plugin.quantization.grid import Bounds

runtime = pytest.importorskip("onnxruntime")
KINDS = list(networks.NETWORKS)
CASES = [
    *((kind, *case) for kind in KINDS for case in ((8, "openvino"), (4, "onnxruntime"))),
    ("edsr", 4, "openvino"),
    ("esrgan", 8, "onnxruntime"),
]
SIZES = [(1, 12, 14), (2, 9, 23)]


def run(model: ModelProto, image: Tensor) -> Tensor:
    """Run a model in ONNX Runtime without graph optimizations."""
    options = runtime.SessionOptions()
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = runtime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(["output"], {"input": image.numpy()})[0])


@dataclass
class QuantizedFile:
    """A network with its table and its file."""

    kind: str
    prepared: PreparedGraph

    @cached_property
    def table(self) -> QuantTable:
        return QuantTable.of(self.prepared)

    @cached_property
    def model(self) -> ModelProto:
        return Placer(networks.float_model(self.kind), self.table).place()

    @cached_property
    def simulated(self) -> PreparedGraph:
        return self.table.simulate(networks.graph(self.kind))

    @cached_property
    def constants(self) -> Mapping[str, Any]:
        return {constant.name: numpy_helper.to_array(constant) for constant in self.model.graph.initializer}

    def nodes(self, kind: str) -> list[NodeProto]:
        return [node for node in self.model.graph.node if node.op_type == kind]

    def producer(self, value: str) -> NodeProto:
        return next(node for node in self.model.graph.node if value in node.output)

    def reads(self, consumer: str, index: int) -> list[NodeProto]:
        """Return the chain that a consumer reads: DequantizeLinear, and Clip and QuantizeLinear before it."""
        chain = [self.producer(OnnxNetwork(self.model).nodes[consumer].input[index])]
        while chain[-1].op_type != "QuantizeLinear" and chain[-1].input[0] not in self.constants:
            chain.append(self.producer(chain[-1].input[0]))
        return chain


def quantized_file(kind: str, bits: int, target: str, **keys: Any) -> QuantizedFile:
    """Quantize with bounds that no observer would choose, so that equal numbers are no accident."""
    prepared = networks.calibrated(kind, bits, target, **keys)
    for n, quantizer in enumerate(prepared.quantizers.values()):
        if not quantizer.fixed:
            factor = 0.8 + 0.01 * n
            quantizer.set_bounds(Bounds(factor * quantizer.lower, (1.7 - factor) * quantizer.upper))
    return QuantizedFile(kind, prepared)


@pytest.fixture(scope="module", params=CASES, ids=lambda case: "-".join(map(str, case)))
def case(request: pytest.FixtureRequest) -> QuantizedFile:
    return quantized_file(*request.param)


def assert_alike(actual: Tensor, expected: Tensor) -> None:
    """Check that images are equal, except for values on a tie, which another order of summing rounds the other way."""
    assert actual.shape == expected.shape
    difference = (actual - expected).abs()
    spread = expected.std()
    assert difference.mean() < 1e-3 * spread
    assert difference.flatten().quantile(0.95) < 1e-4 * spread


@pytest.mark.parametrize("size", SIZES)
def test_the_file_computes_what_the_simulation_computes(case: QuantizedFile, size: tuple[int, int, int]) -> None:
    image = networks.images(*size, seed=4)
    assert_alike(run(case.model, image), case.simulated(image).detach())


def test_the_file_holds_the_numbers_of_the_table(case: QuantizedFile) -> None:
    named = OnnxNetwork(case.model).nodes
    checked = 0
    for site in case.table.plan.sites:
        qparams = case.table.qparams[site.name]
        for edge in site.consumers:
            if edge.consumer not in named:
                continue
            last, *before = case.reads(edge.consumer, edge.input_index)
            assert last.op_type == "DequantizeLinear"
            for node in (last, before[-1] if before else last):
                scale, zero_point = (case.constants[name] for name in node.input[1:])
                assert np.array_equal(scale, qparams.scale.numpy())
                assert np.array_equal(zero_point, qparams.zero_point.numpy())
            if site.role == "weight":
                integers = case.constants[last.input[0]]
                assert integers.dtype == np.int8
                assert np.array_equal(integers, case.table.weights[site.name].numpy())
            else:
                assert case.constants[last.input[2]].dtype == np.uint8
            checked += 1
    assert checked >= 2 * len(case.table.plan.convs)


def test_only_fewer_than_8_bits_are_clipped(case: QuantizedFile) -> None:
    named = OnnxNetwork(case.model).nodes
    for site in case.table.plan.sites:
        edges = [edge for edge in site.consumers if edge.consumer in named]
        if site.role == "weight" or not edges:
            continue
        chain = case.reads(edges[0].consumer, edges[0].input_index)
        kinds = [node.op_type for node in chain]
        if site.grid.bits == 8:
            assert kinds == ["DequantizeLinear", "QuantizeLinear"]
        else:
            assert kinds == ["DequantizeLinear", "Clip", "QuantizeLinear"]
            ends = [int(case.constants[name]) for name in chain[1].input[1:]]
            assert ends == [site.grid.qmin, site.grid.qmax]


def test_the_file_is_valid_and_keeps_names(case: QuantizedFile) -> None:
    onnx.checker.check_model(case.model, full_check=True)
    assert [value.name for value in case.model.graph.input] == ["input"]
    assert [value.name for value in case.model.graph.output] == ["output"]
    outputs = [name for node in case.model.graph.node for name in node.output]
    assert len(outputs) == len(set(outputs))


def test_float_operations_are_still_there_once(case: QuantizedFile) -> None:
    added = ("QuantizeLinear", "DequantizeLinear")
    before = sorted(node.op_type for node in networks.float_model(case.kind).graph.node)
    clips = sum(node.name.endswith("_clip") for node in case.nodes("Clip"))
    after = [node.op_type for node in case.model.graph.node if node.op_type not in added]
    for _ in range(clips):
        after.remove("Clip")
    assert sorted(after) == before


def test_placing_leaves_the_float_file_alone() -> None:
    before = networks.float_model("edsr").SerializeToString()
    assert quantized_file("edsr", 4, "onnxruntime").model.SerializeToString() != before
    assert networks.float_model("edsr").SerializeToString() == before


@pytest.mark.parametrize("kind", KINDS)
def test_the_float_file_computes_the_network(kind: str) -> None:
    model = networks.float_model(kind)
    for size in SIZES:
        image = networks.images(*size)
        torch.testing.assert_close(run(model, image), networks.network(kind)(image), rtol=1e-4, atol=1e-5)


def test_the_float_file_has_metadata_and_dimensions() -> None:
    model = networks.float_model("edsr")
    assert metadata_of(model) == networks.METADATA
    assert metadata_of(ModelProto()) == {}
    assert model.opset_import[0].version == OPSET
    names = [axis.dim_param or axis.dim_value for axis in model.graph.input[0].type.tensor_type.shape.dim]
    assert names == ["batch", 3, "height", "width"]


def test_a_quantized_output_keeps_its_name() -> None:
    quantized = quantized_file("esrgan", 8, "onnxruntime")
    assert quantized.producer("output").op_type == "DequantizeLinear"
    image = networks.images()
    assert torch.unique(run(quantized.model, image)).numel() <= 256


def test_two_sites_on_one_tensor_have_two_chains() -> None:
    quantized = quantized_file("edsr", 4, "onnxruntime", overrides=[{"sites": "/add", "bits": 8}])
    four, eight = (quantized.reads(consumer, 0) for consumer in ("body.0/add", "/add"))
    assert [node.op_type for node in four] == ["DequantizeLinear", "Clip", "QuantizeLinear"]
    assert [node.op_type for node in eight] == ["DequantizeLinear", "QuantizeLinear"]
    assert four[-1].input[0] == eight[-1].input[0]
    image = networks.images(seed=8)
    assert_alike(run(quantized.model, image), quantized.simulated(image).detach())


def test_a_bicubic_skip_stays_float() -> None:
    quantized = quantized_file("bicubic", 8, "onnxruntime")
    last = quantized.producer("output")
    assert last.op_type == "Add"
    kinds = {quantized.producer(name).op_type for name in last.input}
    assert kinds == {"Resize", "DequantizeLinear"}


def test_a_shared_weight_is_stored_once() -> None:
    quantized = quantized_file("shared", 8, "openvino")
    readers = [quantized.reads(consumer, 1)[0] for consumer in ("block.first/conv", "block.first/conv.1")]
    assert readers[0].output[0] == readers[1].output[0]
    assert sum("block.first.weight" in name and name.endswith("integers") for name in quantized.constants) == 1
    assert "block.first.weight" not in quantized.constants


def test_integer_biases_have_the_products_scale() -> None:
    quantized = quantized_file("shared", 8, "onnxruntime")
    for conv in quantized.table.plan.convs:
        image, weight, bias = (quantized.reads(conv, index)[0] for index in range(3))
        scale = [quantized.constants[node.input[1]] for node in (image, weight, bias)]
        assert np.array_equal(scale[2], scale[0] * scale[1])
        integers = quantized.constants[bias.input[0]]
        assert integers.dtype == np.int32
        assert not quantized.constants[bias.input[2]].any()
        name = conv.split("/")[0] + ".bias"
        real = networks.network("shared").get_parameter(name).detach().numpy()
        assert np.array_equal(integers, np.rint(real / scale[2].astype(np.float64)))


def test_a_file_without_the_exporters_names_is_refused() -> None:
    prepared = networks.calibrated("edsr")
    foreign = ModelProto()
    foreign.CopyFrom(networks.float_model("edsr"))
    for node in foreign.graph.node:
        del node.metadata_props[:]
    with pytest.raises(SrptqError, match="export the network again"):
        Placer(foreign, QuantTable.of(prepared)).place()
