"""The quant table: its simulation, its file, and the same bits after reading it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers import networks
from safetensors.torch import save_file

from srptq_plugin.deploy.quant_table import QuantTable
from srptq_plugin.errors import SrptqError
from srptq_plugin.graph.network import Network
from srptq_plugin.planning.plan import Edge
from srptq_plugin.planning.prepared_graph import PreparedGraph
from srptq_plugin.quantization.grid import dequantize
from srptq_plugin.quantization.quantizer import fake_quantize

CASES = [
    ("edsr", 8, "openvino"),
    ("edsr", 4, "onnxruntime"),
    ("mixed", 4, "openvino"),
    ("imdn", 8, "onnxruntime"),
    ("esrgan", 4, "onnxruntime"),
    ("shared", 6, "openvino"),
    ("scaled", 8, "onnxruntime"),
    ("bicubic", 4, "onnxruntime"),
    ("edsr", 4, "paper"),
    ("imdn", 12, "paper"),
]


def table_of(prepared: PreparedGraph, *, integer_bias: bool = False) -> QuantTable:
    """Return a table without integer biases, which no forward before the export has either."""
    table = QuantTable.of(prepared)
    return replace(table, plan=replace(table.plan, integer_bias=integer_bias))


def tuned(kind: str, bits: int, target: str) -> PreparedGraph:
    """Calibrate, and move the bounds off their grid as an optimizer does."""
    prepared = networks.calibrated(kind, bits, target)
    generator = torch.Generator().manual_seed(bits)
    for quantizer in prepared.quantizers.values():
        for end in (quantizer.lower, quantizer.upper):
            if end.requires_grad:
                end.data *= 0.6 + 0.5 * torch.rand(end.shape, generator=generator)
    return prepared


@pytest.fixture(scope="module", params=CASES, ids=lambda case: "-".join(map(str, case)))
def case(request: pytest.FixtureRequest) -> tuple[str, PreparedGraph]:
    kind, bits, target = request.param
    return kind, tuned(kind, bits, target)


def test_tables_simulate_prepared_graphs_bit_for_bit(case: tuple[str, PreparedGraph]) -> None:
    kind, prepared = case
    simulated = table_of(prepared).simulate(networks.graph(kind))
    for size in ((2, 12, 14), (1, 21, 9)):
        image = networks.images(*size)
        assert torch.equal(simulated(image), prepared(image))


def test_a_saved_table_has_the_same_bits(case: tuple[str, PreparedGraph], tmp_path: Path) -> None:
    kind, prepared = case
    table = table_of(prepared)
    table.save(tmp_path / "table.safetensors")
    loaded = QuantTable.load(tmp_path / "table.safetensors")
    assert loaded.plan.sites == table.plan.sites
    assert loaded.plan.blocks == table.plan.blocks
    assert loaded.plan.convs == table.plan.convs
    assert loaded.plan.floats == table.plan.floats
    assert loaded.plan.integer_bias == table.plan.integer_bias
    assert set(loaded.qparams) == set(table.qparams)
    for name, qparams in table.qparams.items():
        assert torch.equal(loaded.qparams[name].scale, qparams.scale)
        assert torch.equal(loaded.qparams[name].zero_point, qparams.zero_point)
        assert loaded.qparams[name].grid == qparams.grid
    assert set(loaded.weights) == set(table.weights)
    for name, integers in table.weights.items():
        assert torch.equal(loaded.weights[name], integers)
    image = networks.images()
    assert torch.equal(loaded.simulate(networks.graph(kind))(image), prepared(image))


def test_integers_dequantize_to_the_forward_weights(case: tuple[str, PreparedGraph]) -> None:
    _, prepared = case
    table = QuantTable.of(prepared)
    weights = [site for site in prepared.plan.sites if site.role == "weight"]
    assert {site.name for site in weights} == set(table.weights)
    for site in weights:
        qparams = table.qparams[site.name]
        integers = table.weights[site.name]
        assert integers.min() >= qparams.grid.qmin
        assert integers.max() <= qparams.grid.qmax
        assert torch.equal(dequantize(integers, qparams), fake_quantize(prepared.parameter(site).detach(), qparams))


@pytest.mark.parametrize(("kind", "target"), [("edsr", "openvino"), ("shared", "onnxruntime")])
def test_integer_biases_are_multiples_of_scales(kind: str, target: str) -> None:
    prepared = networks.calibrated(kind, 8, target)
    table = table_of(prepared, integer_bias=True)
    simulated = table.simulate(networks.graph(kind))
    before, after = Network(networks.graph(kind)), Network(simulated.module)
    scales = {edge: table.qparams[site.name].scale for site in prepared.plan.sites for edge in site.consumers}
    for conv in prepared.plan.convs:
        bias = before.parameter(before.nodes[conv], 2)
        rounded = after.parameter(after.nodes[conv], 2)
        assert bias is not None
        assert rounded is not None
        step = scales[Edge(conv, 0)].double() * scales[Edge(conv, 1)].double()
        expected = (bias[1] / step).round() * step
        torch.testing.assert_close(rounded[1].double(), expected, rtol=1e-6, atol=1e-12)
    image = networks.images()
    torch.testing.assert_close(simulated(image), prepared(image), rtol=0, atol=0.05)


def test_a_simulation_neither_learns_nor_observes() -> None:
    simulated = QuantTable.of(networks.calibrated("edsr", 4)).simulate(networks.graph("edsr"))
    image = networks.images()
    before = simulated(image)
    simulated.quantizers["head/conv"].upper.data *= 2
    assert torch.equal(simulated(image), before)
    assert not any(quantizer.lower.requires_grad for quantizer in simulated.quantizers.values())


def test_files_hold_8_bit_integers(tmp_path: Path) -> None:
    path = tmp_path / "table.safetensors"
    table = QuantTable.of(networks.calibrated("edsr"))
    table.save(path)
    header_size = int.from_bytes(path.read_bytes()[:8], "little")
    header = json.loads(path.read_bytes()[8 : 8 + header_size])
    assert header["head.weight:integers"]["dtype"] == "I8"
    assert header["head/conv:scale"]["dtype"] == "F32"
    assert "schema" in json.loads(header["__metadata__"]["srptq"])


@pytest.mark.parametrize("content", [b"", b"not a table", b"\x08\0\0\0\0\0\0\0{}      "])
def test_another_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "table.safetensors"
    path.write_bytes(content)
    with pytest.raises(SrptqError, match=r"table\.safetensors: not a quant table"):
        QuantTable.load(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SrptqError, match="not a quant table"):
        QuantTable.load(tmp_path / "table.safetensors")


def test_a_later_schema_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "table.safetensors"
    save_file({"a": torch.zeros(1)}, path, metadata={"srptq": json.dumps({"schema": 99})})
    with pytest.raises(SrptqError, match="schema 99, this version reads 1"):
        QuantTable.load(path)


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "table.safetensors"
    QuantTable.of(networks.calibrated("edsr")).save(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(SrptqError, match="not a quant table"):
        QuantTable.load(path)
