"""TensorRT's files keep its rules, and each rule finds the file that breaks it."""

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from helpers import networks
from onnx import ModelProto, TensorProto, helper, numpy_helper

from srptq_plugin.deploy.quant_table import QuantTable
from srptq_plugin.errors import SrptqError
from srptq_plugin.planning.prepared_graph import PreparedGraph
from srptq_plugin.plugins.protocols import Runtime
from srptq_plugin.runs.lint import lint

pytest.importorskip("onnxruntime")

from srptq_adapters.targets.tensorrt import CACHE, HEADER, TARGET

Deploy = Callable[..., tuple[QuantTable, list[Path]]]
ErrorShare = Callable[[str, QuantTable, Runtime], float]
Break = Callable[[ModelProto], None]


@pytest.mark.parametrize("kind", [*networks.NETWORKS, "rdn", "rrdb", "fsrcnn", "lapsrn", "tokens"])
def test_the_file_reproduces_the_simulation(kind: str, deploy: Deploy, error_share: ErrorShare) -> None:
    table, files = deploy(kind, "tensorrt", 8)
    assert error_share(kind, table, TARGET.load(files[0])) < 0.05


@pytest.mark.parametrize("kind", [*networks.NETWORKS, "rdn", "rrdb", "fsrcnn", "lapsrn", "tokens"])
def test_written_files_keep_every_rule(kind: str, deploy: Deploy) -> None:
    _, files = deploy(kind, "tensorrt", 8)
    assert not [finding for finding in lint(files[0], "tensorrt") if finding.severe]


def test_the_calibration_cache_names_tensors_with_scales(
    deploy: Deploy, float_file: Callable[[str], Path], tmp_path: Path
) -> None:
    table, _ = deploy("edsr", "tensorrt", 8)
    written = TARGET.write(float_file("edsr"), table, tmp_path, calibration_cache=True)
    header, *lines = (tmp_path / CACHE).read_text().splitlines()
    cache = {
        name: struct.unpack(">f", bytes.fromhex(digits))[0] for name, digits in (line.split(": ") for line in lines)
    }
    values = {value for node in onnx.load(float_file("edsr")).graph.node for value in (*node.input, *node.output)}
    scales = {float(table.qparams[site.name].scale) for site in table.plan.sites if site.role == "activation"}
    assert (header, [path.name for path in written][1]) == (HEADER, CACHE)
    assert set(cache) <= values
    assert set(cache.values()) == scales


@pytest.mark.parametrize("kind", [*networks.NETWORKS, "rdn", "fsrcnn", "lapsrn", "tokens"])
def test_half_precision_reproduces_the_simulation(kind: str, float_file: Callable[[str], Path], tmp_path: Path) -> None:
    table = QuantTable.of(networks.calibrated(kind, 8, "tensorrt", export={"float": "fp16"}))
    (file,) = TARGET.write(float_file(kind), table, tmp_path, float="fp16")
    image = networks.images(1)
    output = TARGET.load(file)(image.numpy())
    simulation, plain = table.simulate(networks.graph(kind)), PreparedGraph.float_only(networks.graph(kind))
    with torch.no_grad():
        expected, exact = simulation(image).numpy(), plain(image).numpy()
    # Floats of 11 bits flip roundings of 8, but cost less than these.
    assert np.square(output - expected).mean() < np.square(expected - exact).mean()


@pytest.mark.parametrize("kind", ["edsr", "imdn", "mixed", "bicubic"])
def test_half_precision_is_everywhere_but_at_the_ends(
    kind: str, float_file: Callable[[str], Path], tmp_path: Path
) -> None:
    table = QuantTable.of(networks.calibrated(kind, 8, "tensorrt", export={"float": "fp16"}))
    (file,) = TARGET.write(float_file(kind), table, tmp_path, float="fp16")
    model = onnx.load(file)
    inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True).graph
    ends = {model.graph.input[0].name, model.graph.output[0].name}
    sizes = {value for node in model.graph.node if node.op_type == "Resize" for value in node.input[1:]}
    kinds = {value.name: value.type.tensor_type.elem_type for value in inferred.value_info}
    kinds |= {constant.name: constant.data_type for constant in model.graph.initializer}
    singles = {name for name, kind in kinds.items() if kind == TensorProto.FLOAT}
    assert singles <= ends | sizes
    assert not [finding for finding in lint(file, "tensorrt") if finding.severe]


def test_scales_of_half_precision_are_simulated() -> None:
    table = QuantTable.of(networks.calibrated("edsr", 8, "tensorrt", export={"float": "fp16"}))
    assert all(torch.equal(qparams.scale.half().float(), qparams.scale) for qparams in table.qparams.values())


def test_a_constant_beyond_half_precision_is_refused(float_file: Callable[[str], Path], tmp_path: Path) -> None:
    table = QuantTable.of(networks.calibrated("edsr", 8, "tensorrt", export={"float": "fp16"}))
    network = onnx.load(float_file("edsr"))
    bias = next(constant for constant in network.graph.initializer if constant.name == "grow.bias")
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + np.float32(1e6), bias.name))
    onnx.save(network, tmp_path / "large.onnx")
    with pytest.raises(SrptqError, match=r"grow\.bias has 1e\+06, and half precision ends at 65504; set it to fp32"):
        TARGET.write(tmp_path / "large.onnx", table, tmp_path, float="fp16")


def node(model: ModelProto, kind: str, index: int = 0) -> Any:
    return [candidate for candidate in model.graph.node if candidate.op_type == kind][index]


def constant(model: ModelProto, name: str, values: Any) -> str:
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(values), name))
    return name


def no_zero_point(model: ModelProto) -> None:
    del node(model, "QuantizeLinear").input[2]


def unsigned(model: ModelProto) -> None:
    node(model, "QuantizeLinear").input[2] = constant(model, "zero", np.uint8(0))


def shifted(model: ModelProto) -> None:
    node(model, "QuantizeLinear").input[2] = constant(model, "zero", np.int8(3))


def computed_scale(model: ModelProto) -> None:
    pair = node(model, "QuantizeLinear")
    model.graph.node.insert(0, helper.make_node("Abs", [pair.input[1]], ["computed"]))
    pair.input[1] = "computed"


def scales_of_channels(model: ModelProto) -> None:
    node(model, "QuantizeLinear").input[1] = constant(model, "scales", np.ones(3, np.float32))


def wrong_axis(model: ModelProto) -> None:
    pair = node(model, "DequantizeLinear")
    del pair.attribute[:]
    pair.attribute.append(helper.make_attribute("axis", 1))


def float_weight(model: ModelProto) -> None:
    conv = node(model, "Conv", 1)
    conv.input[1] = constant(model, "float", np.ones((6, 3, 3, 3), np.float32))


def bias_in_integers(model: ModelProto) -> None:
    conv = node(model, "Conv")
    integers, scale = constant(model, "b", np.zeros(6, np.int8)), constant(model, "s", np.float32(1))
    zero = constant(model, "z", np.int8(0))
    model.graph.node.insert(0, helper.make_node("DequantizeLinear", [integers, scale, zero], ["bias"]))
    conv.input[2] = "bias"


def foreign(model: ModelProto) -> None:
    node(model, "Conv").op_type = "ConvInteger"


def insert_pair(model: ModelProto, reader: Any, index: int, scale: float = 1.0) -> None:
    """Insert a Q/DQ pair in front of an input of a node."""
    name = f"{reader.name}_{index}"
    ends = [constant(model, f"{name}_s", np.float32(scale)), constant(model, f"{name}_z", np.int8(0))]
    where = list(model.graph.node).index(reader)
    model.graph.node.insert(where, helper.make_node("DequantizeLinear", [f"{name}_q", *ends], [f"{name}_dq"]))
    model.graph.node.insert(where, helper.make_node("QuantizeLinear", [reader.input[index], *ends], [f"{name}_q"]))
    reader.input[index] = f"{name}_dq"


def pair_on_the_branch(model: ModelProto) -> None:
    add = node(model, "Add")
    producers = {value: producer for producer in model.graph.node for value in producer.output}
    index = [producers[value].op_type for value in add.input].index("Conv")
    insert_pair(model, add, index)


def pair_before_activation(model: ModelProto) -> None:
    insert_pair(model, node(model, "Relu"), 0)


def pair_before_shuffle(model: ModelProto) -> None:
    insert_pair(model, node(model, "DepthToSpace"), 0)


def six_dimensions(model: ModelProto) -> None:
    shape = constant(model, "shape", np.array([1, 3, 2, 2, 12, 14], np.int64))
    shuffle = node(model, "DepthToSpace")
    where = list(model.graph.node).index(shuffle)
    model.graph.node.insert(where, helper.make_node("Reshape", [shuffle.input[0], shape], ["six"], "reshape"))
    insert_pair(model, model.graph.node[where], 0)


def uneven_concat(model: ModelProto) -> None:
    value = node(model, "Conv").output[0]
    model.graph.node.append(helper.make_node("Concat", [value, value], ["joined"], "concat", axis=1))
    for index, scale in enumerate((1.0, 2.0)):
        insert_pair(model, model.graph.node[-1], index, scale)


def clipped(model: ModelProto) -> None:
    pair = node(model, "DequantizeLinear", -1)
    model.graph.node.insert(0, helper.make_node("Clip", [pair.input[0]], ["fewer"]))
    pair.input[0] = "fewer"


def other_type(model: ModelProto) -> None:
    node(model, "QuantizeLinear").attribute.append(helper.make_attribute("output_dtype", TensorProto.UINT16))


BROKEN: dict[str, list[Break]] = {
    "TRT001": [foreign],
    "TRT002": [no_zero_point],
    "TRT003": [unsigned],
    "TRT004": [shifted],
    "TRT005": [computed_scale, scales_of_channels],
    "TRT006": [wrong_axis],
    "TRT007": [float_weight],
    "TRT008": [pair_on_the_branch],
    "TRT009": [pair_before_activation],
    "TRT010": [pair_before_shuffle],
    "TRT011": [six_dimensions],
    "TRT012": [uneven_concat],
    "TRT013": [clipped, other_type],
    "TRT014": [bias_in_integers],
}


@pytest.mark.parametrize(("rule", "change"), [(rule, change) for rule, changes in BROKEN.items() for change in changes])
def test_each_rule_finds_what_breaks_it(rule: str, change: Break, deploy: Deploy, tmp_path: Path) -> None:
    _, files = deploy("edsr", "tensorrt", 8)
    model = onnx.load(files[0])
    change(model)
    onnx.save(model, tmp_path / "broken.onnx")
    findings = [finding for finding in lint(tmp_path / "broken.onnx", "tensorrt") if finding.severe]
    assert {finding.rule for finding in findings} == {rule}
    assert all(finding.node and finding.problem and finding.cure for finding in findings)


@pytest.mark.parametrize("kind", networks.NETWORKS)
def test_files_of_other_runtimes_get_findings(kind: str, deploy: Deploy) -> None:
    _, files = deploy(kind, "onnxruntime", 8)
    assert "TRT003" in {finding.rule for finding in lint(files[0], "tensorrt")}


@pytest.mark.parametrize("content", [b"", b"no model", b"\x08\x0a"])
def test_other_files_are_refused_by_name(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "file.onnx"
    path.write_bytes(content)
    with pytest.raises(SrptqError, match=r"file\.onnx: (cannot be read as ONNX|no ONNX graph)"):
        lint(path, "tensorrt")


def test_a_target_without_rules_says_so(float_file: Callable[[str], Path]) -> None:
    with pytest.raises(SrptqError, match="target paper: has no rules for files of others"):
        lint(float_file("edsr"), "paper")
