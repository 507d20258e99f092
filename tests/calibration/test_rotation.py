"""Rotation of streams: the same float network, and less noise by rounding."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from helpers import networks
from torch import Tensor, nn
from torch.export import ExportedProgram

import srptq_plugin
from srptq_plugin.calibration.rotation import rotate
from srptq_plugin.calibration.rotation.rotate import least_noise, noise, rotate_streams
from srptq_plugin.calibration.rotation.stream_noise import measure_noise
from srptq_plugin.calibration.rotation.streams import Streams
from srptq_plugin.deploy.quant_table import QuantTable
from srptq_plugin.graph.export import export_network, graph_of, own_module
from srptq_plugin.graph.network import Network, drop_identities
from srptq_plugin.planning.plan import Plan
from srptq_plugin.planning.prepared_graph import PreparedGraph
from srptq_plugin.plugins.bound_recipe import BoundRecipe
from srptq_plugin.plugins.registry import Registry
from srptq_plugin.quantization.quantizer import Mode

IMAGES = networks.images(4, 24, 26, seed=3)


@pytest.fixture(autouse=True)
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the search for the best matrices."""
    monkeypatch.setattr(rotate, "STEPS", 50)


def exported(kind: str) -> ExportedProgram:
    """Return a program with its own parameters."""
    return networks.own(networks.exported(kind))


def plan(program: ExportedProgram, bits: int = 8, target: str = "onnxruntime") -> Plan:
    weights = {"bits": bits, "overflow_safe": False} if target == "onnxruntime" else {"bits": bits}
    recipe = networks.recipe(bits, target, weights=weights)
    return BoundRecipe.of(recipe, Registry()).plan(Network(graph_of(program)), (0.0, 1.0))


def error(program: ExportedProgram, planned: Plan) -> float:
    """Measure the squared error of the image by quantization."""
    prepared = PreparedGraph.from_plan(drop_identities(own_module(program)), planned)
    prepared.observe([IMAGES])
    with torch.no_grad():
        quantized = prepared(IMAGES)
        with prepared.mode(Mode.OFF):
            return float((quantized - prepared(IMAGES)).double().square().sum())


def streams(module: nn.Module, channels: int = 3) -> Sequence[tuple[str, int]]:
    read = Streams(Network(graph_of(export_network(module.eval(), channels=channels))))
    return list(zip(read.names, read.sizes, strict=True))


@pytest.mark.parametrize("kind", [*networks.NETWORKS, "normed", "fsrcnn", "tokens"])
def test_the_float_network_stays_the_same(kind: str) -> None:
    program = exported(kind)
    exact = program.module()(IMAGES)
    matrices, _ = rotate_streams(Network(graph_of(program)), plan(program, 4), IMAGES, (0.0, 1.0), seed=0)
    torch.testing.assert_close(program.module()(IMAGES), exact, rtol=0, atol=1e-5 * exact.abs().max().item())
    assert bool(matrices) == bool(Streams(Network(graph_of(program))).names)


@pytest.mark.parametrize(("kind", "bits", "target", "share"), [
    ("edsr", 4, "onnxruntime", 0.5), ("edsr", 8, "tensorrt", 0.5), ("imdn", 8, "onnxruntime", 0.6),
    ("esrgan", 8, "tensorrt", 0.8), ("bicubic", 8, "onnxruntime", 0.9),
])  # fmt: skip
def test_rotation_lowers_the_quantization_error(kind: str, bits: int, target: str, share: float) -> None:
    program = exported(kind)
    planned = plan(program, bits, target)
    before = error(program, planned)
    rotate_streams(Network(graph_of(program)), planned, IMAGES, (0.0, 1.0), seed=0)
    assert error(program, planned) < share * before


def test_noise_is_what_a_rotated_network_measures() -> None:
    program = exported("imdn")
    network, planned = Network(graph_of(program)), plan(program)
    original = Streams(network)
    terms = measure_noise(original, planned, IMAGES, seed=0)
    matrices, fall = least_noise(terms, original.sizes)
    eyes = [torch.eye(size, dtype=torch.float64) for size in original.sizes]
    before = noise(terms, eyes).item()
    original.rotate(matrices)
    after = noise(measure_noise(original, planned, IMAGES, seed=0), eyes).item()
    assert after == pytest.approx(before / fall, rel=0.05)


def test_same_seed_gives_the_same_matrices() -> None:
    first, second = (
        rotate_streams(Network(graph_of(program)), plan(program), IMAGES, (0.0, 1.0), seed=3)[0]
        for program in (exported("edsr"), exported("edsr"))
    )
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def build(middle: nn.Module, features: int = 6) -> nn.Module:
    return nn.Sequential(networks.conv(3, features), middle, networks.conv(features, 3))


@pytest.mark.parametrize("middle", [
    nn.ReLU(), nn.PReLU(), nn.AdaptiveAvgPool2d(1), nn.MaxPool2d(2), nn.Conv2d(6, 6, 3, groups=2),
    nn.Conv2d(6, 6, 3, groups=6),
])  # fmt: skip
def test_channels_that_differ_are_no_stream(middle: nn.Module) -> None:
    assert streams(build(middle)) == []


@pytest.mark.parametrize(("middle", "expected"), [
    (nn.Identity(), [("0/conv", 6)]),
    (nn.Upsample(scale_factor=2, mode="bilinear"), [("0/conv", 6)]),
    (nn.ConvTranspose2d(6, 6, 4, 2, 1), [("0/conv", 6), ("1/conv_transpose", 6)]),
    (networks.Residual(), [("0/conv", 6)]),
])  # fmt: skip
def test_linear_operations_pass_a_stream(middle: nn.Module, expected: list[tuple[str, int]]) -> None:
    assert streams(build(middle)) == expected


class Outputs(nn.Module):
    """A map that a convolution reads and that is also an output."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = networks.conv(3, 3), networks.conv(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        features = self.first(x)
        return features + self.second(features)


def test_output_is_no_stream() -> None:
    assert streams(Outputs()) == []


def test_shuffled_channels_are_one_stream() -> None:
    module = nn.Sequential(networks.conv(3, 24), nn.PixelShuffle(2), networks.conv(6, 3))
    network = Network(graph_of(export_network(module.eval())))
    original = Streams(network)
    assert (original.names, original.sizes) == (["0/conv"], [6])
    assert [segment.copies for segment in original.layout(network.convs[0])] == [4]


def test_a_weight_of_two_convolutions_is_left() -> None:
    shared = networks.conv(6, 6)
    assert streams(nn.Sequential(networks.conv(3, 6), shared, shared, networks.conv(6, 3))) == []


def test_recipe_rotates_and_table_keeps_matrices(tmp_path: Path) -> None:
    recipe = networks.recipe(8, "onnxruntime", rotate=True, calibration={"patches": 4, "size": 16})
    run = srptq_plugin.quantize(recipe, model=networks.network("edsr"), out=tmp_path / "run", device="cpu")
    rotations = QuantTable.load(run.folder / "quant_table.safetensors").rotations
    assert [matrix.shape for matrix in rotations.values()] == [(6, 6), (6, 6)]
    assert run.summary["rotated_db"] > 1
