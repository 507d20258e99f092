"""The written ONNX files: the integers of the table, and all that a runtime needs."""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from helpers import networks, saturating
from onnx import ModelProto, NodeProto, numpy_helper

from srptq_plugin.deploy.onnx_export import OnnxNetwork, metadata_of
from srptq_plugin.deploy.quant_table import QuantTable
from srptq_plugin.errors import SrptqError
from srptq_plugin.planning.plan import Edge, Site
from srptq_plugin.plugins.registry import Registry

Deploy = Callable[..., tuple[QuantTable, list[Path]]]
CASES = [
    ("edsr", "onnxruntime", 8, {}),
    ("imdn", "onnxruntime", 4, {}),
    ("shared", "onnxruntime", 6, {}),
    ("edsr", "openvino", 8, {}),
    ("mixed", "openvino", 8, {"preset": "performance"}),
    ("imdn", "openvino", 4, {"preset": "performance"}),
    ("esrgan", "openvino", 6, {"placement": "convs"}),
]


@dataclass
class Written:
    """A table and the Q/DQ file that a target made of it."""

    target: str
    kind: str
    table: QuantTable
    model: ModelProto

    @cached_property
    def constants(self) -> dict[str, np.ndarray[Any, Any]]:
        return {tensor.name: numpy_helper.to_array(tensor) for tensor in self.model.graph.initializer}

    @cached_property
    def producers(self) -> dict[str, NodeProto]:
        return {name: node for node in self.model.graph.node for name in node.output}

    @cached_property
    def named(self) -> dict[str, NodeProto]:
        return OnnxNetwork(self.model).nodes

    def nodes(self, kind: str) -> list[NodeProto]:
        return [node for node in self.model.graph.node if node.op_type == kind]

    def chain(self, value: str) -> list[NodeProto]:
        """Return the nodes from a DequantizeLinear back to its QuantizeLinear, or none for a float tensor."""
        nodes: list[NodeProto] = []
        while (node := self.producers.get(value)) and node.op_type in ("DequantizeLinear", "Clip", "QuantizeLinear"):
            nodes.append(node)
            value = node.input[0]
            if node.op_type == "QuantizeLinear":
                break
        return nodes

    def chains(self, site: Site) -> list[list[NodeProto]]:
        """Return the nodes that each reader of a site reads, through movement."""
        readers = [
            (self.named[edge.consumer], edge.input_index) for edge in site.consumers if edge.consumer in self.named
        ]
        chains: list[list[NodeProto]] = []
        for reader, input_index in readers:
            value = reader.input[input_index]
            while not self.chain(value) and self.producers[value].op_type in ("DepthToSpace", "Split"):
                value = self.producers[value].input[0]
            chains.append(self.chain(value))
        return chains


@pytest.fixture(scope="module", params=CASES, ids=lambda case: "-".join(map(str, (*case[:3], *case[3].values()))))
def written(request: pytest.FixtureRequest, deploy: Deploy) -> Written:
    kind, target, bits, keys = request.param
    table, files = deploy(kind, target, bits, **keys)
    return Written(target, kind, table, onnx.load(next(path for path in files if path.suffix == ".onnx")))


def offset(site: Site) -> int:
    """Return the shift of the zero point: signed activations are stored as unsigned, half their levels higher."""
    return 2 ** (site.grid.bits - 1) if site.role == "activation" and site.grid.signed else 0


def test_scales_and_zero_points_come_from_the_table(written: Written) -> None:
    for site in written.table.plan.sites:
        expected = written.table.qparams[site.name]
        for chain in written.chains(site):
            assert chain or site.repeats, site.name
            for node in (node for node in chain if node.op_type != "Clip"):
                scale, zero_point = (written.constants[name] for name in node.input[1:])
                assert scale.dtype == np.float32
                assert np.array_equal(scale, expected.scale.numpy())
                assert np.array_equal(zero_point, expected.zero_point.numpy() + offset(site))


def test_weights_are_integers_of_the_table_and_narrow(written: Written) -> None:
    weights = [site for site in written.table.plan.sites if site.role == "weight"]
    assert len(weights) == len(written.table.weights)
    for site in weights:
        most = 2 ** (site.grid.bits - 1) - 1
        for chain in written.chains(site):
            assert [node.op_type for node in chain] == ["DequantizeLinear"]
            integers = written.constants[chain[0].input[0]]
            assert integers.dtype == np.int8
            assert np.array_equal(integers, written.table.weights[site.name].numpy())
            assert np.abs(integers.astype(int)).max() <= most
            assert all(_is_spread(channel, most, site.grid.pair_limit) for channel in integers)
            assert [(attribute.name, attribute.i) for attribute in chain[0].attribute] == [("axis", 0)]


def _is_spread(channel: np.ndarray[Any, Any], most: int, limit: int | None) -> bool:
    """Tell whether a channel reaches the end of its grid, or a pair its limit or one less."""
    at_limit = limit is not None and saturating.overflows(channel[None], largest=260)
    return at_limit or np.abs(channel.astype(int)).max() == most


def test_planned_convolutions_keep_no_float_weight(written: Written) -> None:
    assert not {site.source for site in written.table.plan.sites if site.role == "weight"} & set(written.constants)


def test_zero_points_have_the_type_of_their_integers(written: Written) -> None:
    kinds = {"weight": np.dtype(np.int8), "bias": np.dtype(np.int32), "activation": np.dtype(np.uint8)}
    types: set[np.dtype[Any]] = set()
    for node in (*written.nodes("QuantizeLinear"), *written.nodes("DequantizeLinear")):
        assert len(node.input) == 3
        zero_point = written.constants[node.input[2]]
        types.add(zero_point.dtype)
        if node.input[0] in written.constants:
            assert written.constants[node.input[0]].dtype == zero_point.dtype
        else:
            assert zero_point.dtype == kinds["activation"]
    assert types == set(kinds.values()) - ({kinds["bias"]} if written.target == "openvino" else set())


def test_a_clip_keeps_fewer_bits_in_range(written: Written) -> None:
    activations = [site for site in written.table.plan.sites if site.role == "activation"]
    for site in activations:
        for chain in filter(None, written.chains(site)):
            kinds = [node.op_type for node in chain]
            if site.grid.bits == 8:
                assert kinds == ["DequantizeLinear", "QuantizeLinear"]
            else:
                assert kinds == ["DequantizeLinear", "Clip", "QuantizeLinear"]
                assert [int(written.constants[name]) for name in chain[1].input[1:]] == [0, 2**site.grid.bits - 1]


def test_biases_are_integers_if_the_target_says_so(written: Written) -> None:
    module = networks.folded(written.kind)
    for conv in written.table.plan.convs:
        node = written.named[conv]
        real = module.get_submodule(conv.split("/", maxsplit=1)[0]).get_parameter("bias").detach()
        if written.target == "openvino":
            assert np.allclose(written.constants[node.input[2]], real.numpy(), atol=1e-6)
            continue
        image, weight, bias = (written.chain(name)[0] for name in node.input)
        scales = [written.constants[node.input[1]] for node in (image, weight, bias)]
        integers = written.constants[bias.input[0]]
        assert integers.dtype == np.int32
        assert np.array_equal(scales[2], scales[0] * scales[1])
        assert np.abs(integers * scales[2].astype(np.float64) - real.numpy()).max() <= 0.51 * scales[2].max()
        expected = written.table.bias(conv, real)
        assert expected is not None
        assert np.abs(integers - expected[0].numpy()).max() <= 1


def test_the_file_holds_the_metadata(written: Written) -> None:
    assert metadata_of(written.model) == networks.METADATA


def test_sizes_stay_dynamic(written: Written) -> None:
    shape = written.model.graph.input[0].type.tensor_type.shape.dim
    assert [side.dim_param or side.dim_value for side in shape] == ["batch", 3, "height", "width"]


@pytest.mark.parametrize("target", ["openvino", "onnxruntime", "ncnn"])
def test_a_table_of_another_network_writes_nothing(
    target: str, float_file: Callable[[str], Path], tmp_path: Path
) -> None:
    table = QuantTable.of(networks.calibrated("imdn", 8, target))
    with pytest.raises(SrptqError, match="not found in the ONNX graph"):
        Registry().target(target).load().write(float_file("edsr"), table, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_bias_too_large_for_int32_stays_float(float_file: Callable[[str], Path], tmp_path: Path) -> None:
    table = QuantTable.of(networks.calibrated("edsr", 8, "onnxruntime"))
    image = next(site.name for site in table.plan.sites if Edge("head/conv", 0) in site.consumers)
    tiny = replace(table.qparams[image], scale=torch.tensor(1e-30))
    changed = replace(table, qparams={**table.qparams, image: tiny})
    path = Registry().target("onnxruntime").load().write(float_file("edsr"), changed, tmp_path)[0]
    model = onnx.load(path)
    stored = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    bias = OnnxNetwork(model).nodes["head/conv"].input[2]
    assert stored[bias] == onnx.TensorProto.FLOAT


@pytest.mark.parametrize("channels", [3, 1])
@pytest.mark.parametrize("target", [entry.name for entry in Registry().entries("target")])
def test_the_command_names_sizes_of_the_network(target: str, channels: int) -> None:
    built = Registry().target(target).load()
    command = built.command(Path("model.onnx"), (1, channels, 320, 512), fixed=False)
    sizes = {tuple(map(int, re.split("[x,]", size))) for size in re.findall(r"\d+(?:[x,]\d+){3}", command)}
    assert ((1, channels, 320, 512) in sizes) is (target in ("openvino", "snpe", "tensorrt"))
    assert all(size[:2] == (1, channels) and size[2] % 64 == size[3] % 64 == 0 for size in sizes)
    fixed = built.command(Path("model.onnx"), (1, channels, 20, 28), fixed=True)
    assert ("28" in fixed) is (target in ("snpe", "ncnn"))
