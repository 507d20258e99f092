"""Written files cannot overflow without VNNI, and lint finds files that can, by an emulated kernel."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from helpers import networks, saturating
from onnx import ModelProto, TensorProto, helper, numpy_helper

from srptq_adapters.targets.onnx_graph import OnnxGraph
from srptq_adapters.targets.overflow_rules import check
from srptq_plugin.deploy.quant_table import QuantTable
from srptq_plugin.plugins.protocols import Finding
from srptq_plugin.runs.lint import lint

Deploy = Callable[..., tuple[QuantTable, list[Path]]]
TARGETS = ("onnxruntime", "openvino")
KINDS = [*networks.NETWORKS, "normed", "rdn", "fsrcnn", "lapsrn"]


def integers_of(path: Path) -> Iterator[np.ndarray[Any, Any]]:
    """Yield the integer weights of a file's convolutions, with output channels first."""
    graph = OnnxGraph(onnx.load(path).graph)
    for node in graph.of("Conv", "ConvTranspose"):
        integers = graph.dequantized(node.input[1])
        if integers is not None:
            yield integers.swapaxes(0, 1) if node.op_type == "ConvTranspose" else integers


def written(files: list[Path]) -> Path:
    return next(path for path in files if path.suffix == ".onnx")


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("kind", KINDS)
def test_written_files_never_overflow(kind: str, target: str, deploy: Deploy) -> None:
    path = written(deploy(kind, target)[1])
    assert lint(path, target) == []
    weights = list(integers_of(path))
    assert weights
    assert not any(map(saturating.overflows, weights))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    "keys", [{"preset": "performance"}, {"weights": {"per_channel": False}}, {"placement": "convs"}]
)
def test_other_settings_never_overflow(target: str, keys: dict[str, Any], deploy: Deploy) -> None:
    if target == "onnxruntime" and "weights" not in keys:
        pytest.skip("ONNX Runtime has one preset and one placement")
    assert not any(map(saturating.overflows, integers_of(written(deploy("edsr", target, **keys)[1]))))


@pytest.mark.parametrize("target", TARGETS)
def test_lint_finds_the_channels_that_overflow(target: str, deploy: Deploy) -> None:
    path = written(deploy("edsr", target, weights={"overflow_safe": False})[1])
    unsafe = sum(saturating.overflows(channel[None]) for weight in integers_of(path) for channel in weight)
    findings = lint(path, target)
    assert unsafe > 0
    assert sum(map(unsafe_channels, findings)) == unsafe
    assert {(finding.rule, finding.severe, finding.without_vnni) for finding in findings} == {("VNNI001", True, True)}


def unsafe_channels(finding: Finding) -> int:
    """Read how many channels a finding counts."""
    return int(finding.problem.split(": ")[1].split(" of ")[0])


@pytest.mark.parametrize("bits", [4, 6, 7])
@pytest.mark.parametrize("target", TARGETS)
def test_fewer_bits_need_no_raised_scales(target: str, bits: int, deploy: Deploy) -> None:
    table, files = deploy("edsr", target, bits)
    narrow = [site for site in table.plan.weights if site.grid.bits < 8]
    assert narrow
    assert all(site.grid.pair_limit is None for site in narrow)
    assert lint(written(files), target) == []


@pytest.mark.parametrize("target", ["tensorrt", "snpe", "litert", "ncnn", "executorch", "paper"])
def test_other_targets_keep_their_scales(target: str) -> None:
    plan = networks.calibrated("edsr", 8, target).plan
    assert all(site.grid.pair_limit is None for site in plan.sites)


ZERO = np.uint8(0)


def conv_model(weight: np.ndarray[Any, Any], kind: str = "Conv", *, zero: Any = ZERO, **attributes: Any) -> ModelProto:
    """Build one operation with an int8 weight behind DequantizeLinear, as exporters of Q/DQ files write it."""
    constants = {"step": np.float32(1), "zero": np.asarray(zero), "w": weight.astype(np.int8), "w_zero": np.int8(0)}
    nodes = [
        helper.make_node("QuantizeLinear", ["input", "step", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "step", "zero"], ["x"]),
        helper.make_node("DequantizeLinear", ["w", "step", "w_zero"], ["weight"]),
        helper.make_node(kind, ["x", "weight"], ["output"], name="the_operation", **attributes),
    ]
    return model_of(nodes, constants)


def model_of(nodes: list[Any], constants: dict[str, Any]) -> ModelProto:
    first, last = (helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("input", "output"))
    stored = [numpy_helper.from_array(np.asarray(values), name) for name, values in constants.items()]
    return helper.make_model(helper.make_graph(nodes, "one", [first], [last], stored))


def only(*places: tuple[int, ...], shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    weight = np.zeros(shape, np.int8)
    for place in places:
        weight[place] = 127
    return weight


NEIGHBORS = (0, 0, 0, 0), (0, 1, 0, 0)
ACROSS_TAPS = (0, 2, 0, 0), (0, 0, 0, 1)
APART = (0, 1, 0, 0), (0, 2, 0, 0)


@pytest.mark.parametrize(
    ("places", "channels", "unsafe"),
    [(NEIGHBORS, 4, True), (APART, 4, False), (ACROSS_TAPS, 3, True), (ACROSS_TAPS, 4, False)],
)
def test_pairs_are_the_neighbors_that_kernels_add(places: Any, channels: int, *, unsafe: bool) -> None:
    weight = only(*places, shape=(1, channels, 3, 3))
    assert saturating.overflows(weight) is unsafe
    assert bool(check(conv_model(weight))) is unsafe


def test_depthwise_convolutions_add_no_pairs() -> None:
    weight = np.full((4, 1, 3, 3), 127)
    assert check(conv_model(weight, group=4)) == []
    assert check(conv_model(weight)) != []


@pytest.mark.parametrize(
    ("kind", "weight", "attributes", "unsafe"),
    [
        ("MatMul", [[127, 0], [127, 0]], {}, 1),
        ("MatMul", [[127, 127], [0, 0]], {}, 0),
        ("Gemm", [[127, 0], [127, 0]], {}, 1),
        ("Gemm", [[127, 127], [0, 0]], {"transB": 1}, 1),
        ("ConvTranspose", [[[[127]], [[0]]], [[[127]], [[127]]]], {}, 1),
    ],
)
def test_the_layout_follows_the_operation(kind: str, weight: Any, attributes: dict[str, Any], unsafe: int) -> None:
    findings = check(conv_model(np.array(weight), kind, **attributes))
    assert list(map(unsafe_channels, findings)) == ([unsafe] if unsafe else [])


def test_operations_of_onnx_runtime_are_read() -> None:
    weight = only(*NEIGHBORS, shape=(2, 4, 3, 3))
    constants = {"s": np.float32(1), "z": np.uint8(0), "w": weight, "wz": np.int8(0)}
    node = helper.make_node("QLinearConv", ["input", "s", "z", "w", "s", "wz", "s", "z"], ["output"])
    assert list(map(unsafe_channels, check(model_of([node], constants)))) == [1]


@pytest.mark.parametrize(("upper", "unsafe"), [(255, True), (128, False), (None, True)])
def test_a_clip_of_activations_makes_room(upper: int | None, *, unsafe: bool) -> None:
    model = conv_model(only(*NEIGHBORS, shape=(1, 4, 3, 3)))
    inputs = ["q", "zero", "upper"] if upper is not None else ["q", "zero"]
    model.graph.node.insert(1, helper.make_node("Clip", inputs, ["clipped"]))
    model.graph.node[2].input[0] = "clipped"
    if upper is not None:
        model.graph.initializer.append(numpy_helper.from_array(np.array(upper, np.uint8), "upper"))
    assert bool(check(model)) is unsafe


def test_float_and_wide_activations_have_no_pairs() -> None:
    weight = only(*NEIGHBORS, shape=(1, 4, 3, 3))
    assert check(conv_model(weight, zero=np.uint16(0))) == []
    model = conv_model(weight)
    model.graph.node[3].input[0] = "input"
    assert check(model) == []
    assert check(conv_model(weight, zero=np.int8(0))) != []


def test_weights_quantized_in_the_file_are_read() -> None:
    """Read float weights in front of Q/DQ, as some exporters leave them, with a scale per channel."""
    weight = only(*NEIGHBORS, shape=(2, 4, 3, 3)).astype(np.float32)
    constants = {
        "step": np.float32(1), "zero": np.uint8(0), "w": weight,
        "w_step": np.array([1, 2], np.float32), "w_zero": np.zeros(2, np.int8),
    }  # fmt: skip
    nodes = [
        helper.make_node("QuantizeLinear", ["input", "step", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "step", "zero"], ["x"]),
        helper.make_node("QuantizeLinear", ["w", "w_step", "w_zero"], ["wq"], axis=0),
        helper.make_node("DequantizeLinear", ["wq", "w_step", "w_zero"], ["weight"], axis=0),
        helper.make_node("Conv", ["x", "weight"], ["output"]),
    ]
    assert list(map(unsafe_channels, check(model_of(nodes, constants)))) == [1]
    constants["w_step"] = np.array([2, 2], np.float32)
    assert check(model_of(nodes, constants)) == []


class Reader:
    """Calibration data for ONNX Runtime's own quantizer."""

    def __init__(self) -> None:
        self.left = 3

    def get_next(self) -> Any:
        self.left -= 1
        return {"input": networks.images(1, 16, 16, seed=self.left).numpy()} if self.left >= 0 else None

    def rewind(self) -> None:
        self.left = 3


@pytest.mark.parametrize("reduce_range", [False, True])
@pytest.mark.parametrize("form", ["QDQ", "QOperator"])
def test_lint_reads_files_of_quantize_static(
    form: str, float_file: Callable[[str], Path], tmp_path: Path, *, reduce_range: bool
) -> None:
    quantization = pytest.importorskip("onnxruntime.quantization")
    quantization.quantize_static(
        float_file("edsr"), tmp_path / "static.onnx", Reader(), quant_format=quantization.QuantFormat[form],
        per_channel=True, reduce_range=reduce_range,
        activation_type=quantization.QuantType.QUInt8, weight_type=quantization.QuantType.QInt8,
    )  # fmt: skip
    assert bool(lint(tmp_path / "static.onnx", "onnxruntime")) is not reduce_range
