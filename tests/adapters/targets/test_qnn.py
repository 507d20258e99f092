"""Q/DQ files for ONNX Runtime's QNN provider: on the emulated HTP, and their form."""

import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from helpers import networks
from onnx import ModelProto, NodeProto
from torch import Tensor, nn
from torch.nn import functional

from srptq_plugin.deploy.fixed_point import use_fixed_point
from srptq_plugin.deploy.quant_table import QuantTable
from srptq_plugin.errors import MissingRuntimeError, SrptqError
from srptq_plugin.pipeline import quantize
from srptq_plugin.planning.prepared_graph import PreparedGraph
from srptq_plugin.runs.run import Run

pytest.importorskip("onnxruntime")

from srptq_adapters.targets.onnx_graph import OnnxGraph
from srptq_adapters.targets.qnn_file import write_qdq
from srptq_adapters.targets.qnn_provider import QnnProvider
from srptq_adapters.targets.snpe import TARGET

QDQ = {"format": "qdq"}
RULES = TARGET.adapt(TARGET.presets["default"], format="qdq")
EXACT = ("espcn", "fsrcnn", "lapsrn", "normed", "imdn", "esrgan")
FEW = 0.05
"""A share of the error of quantization: HTP's biases are off by one, which flips few roundings in small networks."""
EQUAL = 140
"""Decibels between equal images, one of them in double precision."""
FLAWED = "activations"
"""HTP's compiler gives wrong sums of a product with a positive number and one with a negative number."""


def written(kind: str, bits: int, folder: Path, **keys: Any) -> tuple[QuantTable, Path]:
    """Quantize a toy network to so many bits, and write its file."""
    table = QuantTable.of(networks.calibrated(kind, bits, "snpe", export=QDQ, **keys))
    network = folder / "model.onnx"
    onnx.save(networks.float_model(kind), network)
    return table, next(iter(TARGET.write(network, table, folder, format="qdq")))


def images(seed: int = 3) -> Tensor:
    """Return an image of 8 bits: HTP reads other numbers in half precision."""
    return (networks.images(1, 12, 14, seed=seed) * 255).round() / 255


def errors(kind: str, table: QuantTable, file: Path) -> tuple[float, float]:
    """Return the mean square error of the file against the simulation, and of the simulation."""
    simulation = use_fixed_point(table.simulate(networks.graph(kind)), RULES)
    with torch.no_grad():
        expected = simulation(images()).numpy()
        plain = PreparedGraph.float_only(networks.graph(kind))(images()).numpy()
    output = QnnProvider(file)(images().numpy())
    return float(np.square(output - expected).mean()), float(np.square(expected - plain).mean())


@pytest.mark.parametrize("kind", EXACT)
def test_htp_computes_what_is_simulated(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime_qnn")
    table, file = written(kind, 8, tmp_path)
    wrong, quantization = errors(kind, table, file)
    assert wrong <= FEW * quantization
    assert QnnProvider(file).integer_convs() == len(table.plan.convs)


@pytest.mark.parametrize("kind", sorted({*networks.NETWORKS, *networks.OTHERS} - {*EXACT, FLAWED}))
def test_htp_takes_every_operation(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime_qnn")
    table, file = written(kind, 8, tmp_path)
    wrong, quantization = errors(kind, table, file)
    assert wrong < 4 * quantization
    assert QnnProvider(file).integer_convs() >= len(table.plan.convs)


@pytest.mark.parametrize(("kind", "keys"), [
    ("imdn", {"activations": {"bits": 16}, "stages": {"head": {"activations": 16}, "tail": {"activations": 16}}}),
    ("edsr", {"stages": {"head": {"activations": 16}, "tail": {"activations": 16}}}),
    ("mixed", {"stages": {"body": {"activations": 16}}}),
], ids=["all", "edges", "body"])  # fmt: skip
def test_widths_of_16_bits_mix_with_8(kind: str, keys: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime_qnn")
    table, file = written(kind, 8, tmp_path, **keys)
    wrong, quantization = errors(kind, table, file)
    assert wrong < 2 * quantization
    check_units(onnx.load(file))


class Sloped(nn.Module):
    """A convolution of any kernel without biases, and an activation, whose slopes may be negative."""

    def __init__(self, kernel: int, *slopes: float) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, kernel, padding=kernel // 2, bias=False)
        self.act = nn.PReLU(len(slopes))
        self.act.weight.data[:] = torch.tensor(slopes)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.conv(x))


def unbiased(*layers: nn.Module) -> nn.Module:
    """Put a convolution behind layers, without a bias: HTP's are off by one."""
    torch.manual_seed(0)
    network = nn.Sequential(*layers, nn.Conv2d(6, 3, 3, padding=1, bias=False))
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            layer.weight.data.normal_(0, 0.2)
    return network


@pytest.mark.parametrize("layer", [
    Sloped(3, 0.2), Sloped(3, -0.4), Sloped(1, 0.3, -0.2, 0.01, 1.3, 0.0, -1.0), Sloped(9, 0.25), Sloped(5, 0.05),
], ids=["leaky", "negative", "channels", "large kernel", "small slope"])  # fmt: skip
def test_an_activation_is_computed_to_the_last_integer(layer: Sloped, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime_qnn")
    report = fast(unbiased(layer), tmp_path / "run").summary["verify"]
    # A multiplier near a tie may be rounded up by one side alone, which changes few values.
    assert (report["psnr"] or math.inf) > (EQUAL if layer.act.num_parameters == 1 else 80)
    assert report["convs_int8"] == 2


class Summed(nn.Module):
    """Sums and differences of convolutions, one of them with a ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(3, 6, 3, padding=1, bias=False) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        first, second, third, fourth = (conv(x) for conv in self.convs)
        return functional.relu(first + second) - (third - 0.3 * fourth.clamp(min=0))


@pytest.mark.parametrize("layer", [
    Summed(), nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.Sequential(nn.Conv2d(3, 6, 1, bias=False), nn.ReLU()),
    nn.Sequential(nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.ReLU6()),
    nn.Sequential(nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.Hardtanh(0, 0.25)),
    nn.ConvTranspose2d(3, 6, 4, stride=2, padding=1, bias=False), nn.Conv2d(3, 6, 3, padding=1, groups=3, bias=False),
], ids=["sums", "conv", "relu", "relu6", "clamp", "transposed", "groups"])  # fmt: skip
def test_htp_computes_to_the_last_integer(layer: nn.Module, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime_qnn")
    report = fast(unbiased(layer), tmp_path / "run").summary["verify"]
    assert (report["psnr"] or math.inf) > EQUAL


def fast(module: nn.Module, out: Path) -> Run:
    """Quantize a module quickly for the provider."""
    small = ["calibration.patches=4", "calibration.size=24", "export.format=qdq"]
    return quantize("snpe-w8a8-fast", model=module.eval(), out=out, overrides=small, device="cpu")


def check_units(model: ModelProto) -> None:
    """Assert that every operation reads and makes integers of one width."""
    graph = OnnxGraph(model.graph)
    known = {tensor.name for tensor in graph.graph.initializer}
    for node in graph.nodes:
        if node.op_type == "Shape" or known.issuperset(node.input):
            known.update(node.output)

    def bits(node: NodeProto) -> int:
        return graph.constant(node.input[2]).itemsize

    for node in graph.nodes:
        is_fused = node.op_type == "Relu" and not graph.is_dequantized(node.input[0])
        if node.op_type in ("QuantizeLinear", "DequantizeLinear") or is_fused or known.issuperset(node.output):
            continue
        data = node.input[:1] if node.op_type in ("Conv", "ConvTranspose", "Resize", "Slice", "Split") else node.input
        read = {bits(graph.producers[value]) for value in data if graph.is_dequantized(value)}
        assert all(graph.is_dequantized(value) or value in known or not value for value in node.input), node.output[0]
        for value in node.output:
            behind = [reader for reader in graph.readers[value] if reader.op_type != "Shape"]
            if len(behind) == 1 and behind[0].op_type == "Relu":
                behind = graph.readers[behind[0].output[0]]
            assert {reader.op_type for reader in behind} <= {"QuantizeLinear"}, value
            made = {bits(reader) for reader in behind if reader.op_type == "QuantizeLinear"}
            assert len(read | made) == 1, value


@pytest.mark.parametrize("kind", sorted({*networks.NETWORKS, *networks.OTHERS} - {"channelslast", "tokens"}))
def test_every_tensor_is_integers_of_one_width(kind: str) -> None:
    table = QuantTable.of(networks.calibrated(kind, 8, "snpe", export=QDQ))
    check_units(write_qdq(networks.float_model(kind), table))


@pytest.mark.parametrize("stage", ["head", "body", "tail"])
@pytest.mark.parametrize("kind", ["edsr", "imdn", "esrgan"])
def test_a_float_stage_stays_float(kind: str, stage: str) -> None:
    table = QuantTable.of(networks.calibrated(kind, 8, "snpe", export=QDQ, stages={stage: {"quantize": False}}))
    graph = OnnxGraph(write_qdq(networks.float_model(kind), table).graph)
    convs = [node for node in graph.of("Conv") if graph.is_dequantized(node.input[1])]
    assert len(convs) >= len(table.plan.convs)
    assert len(convs) < len(graph.of("Conv"))


def test_a_bias_beyond_32_bits_widens_its_weight(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime_qnn")
    torch.manual_seed(0)
    first, second = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 3, 3, padding=1)
    first.weight.data[1] *= 1e-9
    first.bias.data[1] = 0.7  # pyright: ignore[reportOptionalMemberAccess]
    run = fast(nn.Sequential(first, second), tmp_path / "run")
    assert run.summary["verify"]["psnr"] > 55


def test_speed_of_an_emulator_is_not_measured(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime_qnn")
    report = fast(networks.network("espcn"), tmp_path / "run").summary["verify"]
    assert report["speedup"] is None
    assert "HTP v73 was emulated" in report["note"]
    assert report["passed"], report["problems"]


def test_a_refused_operation_is_named(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime_qnn")
    _, file = written("espcn", 8, tmp_path)
    model = onnx.load(file)
    first = next(node for node in model.graph.node if node.op_type == "Conv")
    first.input[1] = next(node for node in model.graph.node if node.output[0] == first.input[1]).input[0]
    onnx.save(with_float_weight(model, first), file)
    with pytest.raises(SrptqError, match=r"model_qnn\.onnx: HTP takes no operation that reads .*export\.format"):
        TARGET.load(file)(images().numpy())


def with_float_weight(model: ModelProto, conv: NodeProto) -> ModelProto:
    """Give a convolution a float weight, which leaves it between integers and floats."""
    graph = OnnxGraph(model.graph)
    weight = graph.constant(conv.input[1]).astype(np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(weight, "float_weight"))
    conv.input[1] = "float_weight"
    return model


def test_without_the_provider_it_says_what_installs_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime_qnn", None)
    _, file = written("espcn", 8, tmp_path)
    with pytest.raises(MissingRuntimeError, match=r"srptq-plugin\[qnn\]"):
        TARGET.load(file)
