"""Channel equalization: the same float network, and less noise by rounding."""

import copy
import json
from pathlib import Path

import onnxruntime
import pytest
import torch
from helpers import networks
from torch import Tensor, nn
from torch.export import ExportedProgram

import srptq_plugin
from srptq_plugin.calibration.equalization import noise
from srptq_plugin.calibration.equalization.equalize import equalize_network
from srptq_plugin.calibration.equalization.rounding_noise import RoundingNoise
from srptq_plugin.graph.export import export_network, graph_of, own_module
from srptq_plugin.graph.network import Network, drop_identities
from srptq_plugin.pipeline import quantize
from srptq_plugin.planning.plan import Plan
from srptq_plugin.planning.prepared_graph import PreparedGraph
from srptq_plugin.plugins.bound_recipe import BoundRecipe
from srptq_plugin.plugins.registry import Registry
from srptq_plugin.quantization.quantizer import Mode
from srptq_plugin.recipes.recipe import Recipe

pytest.importorskip("onnxruntime")
IMAGES = networks.images(8, 24, 26, seed=3)


@pytest.fixture
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the search for the best scales, for tests that hold wherever it ends."""
    monkeypatch.setattr(noise, "STEPS", 100)


def exported(kind: str) -> ExportedProgram:
    """Return a program with its own parameters."""
    return networks.own(networks.exported(kind))


def build_plan(program: ExportedProgram, recipe: Recipe) -> Plan:
    return BoundRecipe.of(recipe, Registry()).plan(Network(graph_of(program)), (0.0, 1.0))


def plan(kind: str, bits: int, target: str = "onnxruntime") -> Plan:
    return networks.plan(kind, networks.recipe(bits, target))


def equalize_program(program: ExportedProgram, planned: Plan, seed: int = 0) -> float:
    return equalize_network(RoundingNoise(Network(graph_of(program)), planned, IMAGES, seed))


def prepare(program: ExportedProgram, planned: Plan) -> PreparedGraph:
    prepared = PreparedGraph.from_plan(drop_identities(own_module(program)), planned)
    prepared.observe([IMAGES])
    return prepared


def error(program: ExportedProgram, planned: Plan) -> float:
    """Measure the squared error of the image by quantization."""
    prepared = prepare(program, planned)
    with torch.no_grad():
        quantized = prepared(IMAGES)
        with prepared.mode(Mode.OFF):
            return float((quantized - prepared(IMAGES)).double().square().sum())


@pytest.mark.usefixtures("few_steps")
@pytest.mark.parametrize("kind", [*networks.NETWORKS, "normed"])
@pytest.mark.parametrize("bits", [4, 8])
def test_the_float_network_stays_the_same(kind: str, bits: int) -> None:
    program = exported(kind)
    before = {name: value.clone() for name, value in program.state_dict.items()}
    exact = program.module()(IMAGES)
    planned = build_plan(program, networks.recipe(bits, "onnxruntime"))
    assert equalize_program(program, planned) > 0.1
    assert torch.allclose(program.module()(IMAGES), exact, atol=1e-5)
    assert any(not torch.equal(value, before[name]) for name, value in program.state_dict.items())


@pytest.mark.parametrize(("kind", "bits", "target"), [
    ("edsr", 4, "onnxruntime"), ("edsr", 8, "tensorrt"), ("imdn", 4, "onnxruntime"), ("imdn", 8, "snpe"),
    ("esrgan", 6, "openvino"), ("bicubic", 8, "onnxruntime"), ("mixed", 6, "openvino"),
    ("rdn", 8, "tensorrt"),
])  # fmt: skip
def test_equalization_lowers_the_quantization_error(kind: str, bits: int, target: str) -> None:
    planned = plan(kind, bits, target)
    program = exported(kind)
    before = error(program, planned)
    equalize_program(program, planned)
    assert error(program, planned) < 0.9 * before


def test_measured_noise_matches_its_model() -> None:
    # A linear network, of which the first order is exact, without scales that are raised against overflow.
    torch.manual_seed(3)
    layers = [networks.conv(3, 6), networks.conv(6, 6), networks.conv(6, 6), networks.conv(6, 12), nn.PixelShuffle(2)]
    program = export_network(nn.Sequential(*layers).eval())
    planned = build_plan(program, networks.recipe(8, "onnxruntime", weights={"bits": 8, "overflow_safe": False}))
    noise = RoundingNoise(Network(graph_of(program)), planned, IMAGES, seed=0)
    expected = sum(noise.by_group(equalized=False).values()) / 4
    assert error(program, planned) == pytest.approx(expected, rel=0.35)


@pytest.mark.parametrize("kind", ["normed", "imdn"])
def test_equalized_copies_quantize_better(kind: str) -> None:
    network = networks.network(kind)
    recipe = networks.recipe(4, "onnxruntime")
    equalized = srptq_plugin.equalize(network, recipe, IMAGES)
    assert torch.allclose(equalized(IMAGES), network(IMAGES), atol=1e-5)
    errors = [error(program, build_plan(program, recipe)) for program in map(export_network, (network, equalized))]
    assert errors[1] < 0.9 * errors[0]


class Tokens(nn.Module):
    """A sum of tensors that are not feature maps, as in transformers."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.mix, self.tail = networks.conv(3, 6), nn.Linear(6, 6), networks.conv(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        shallow = self.head(x)
        tokens = shallow.flatten(2).transpose(1, 2)
        mixed = tokens + self.mix(tokens)
        return self.tail(mixed.transpose(1, 2).reshape(shallow.shape))


@pytest.mark.usefixtures("few_steps")
def test_tensors_without_channels_stay_unscaled() -> None:
    torch.manual_seed(0)
    network = Tokens().eval()
    equalized = srptq_plugin.equalize(network, networks.recipe(4, "onnxruntime"), IMAGES)
    assert torch.allclose(equalized(IMAGES), network(IMAGES), atol=1e-5)


@pytest.mark.usefixtures("few_steps")
def test_tensors_with_channels_last_stay_unscaled() -> None:
    program = exported("tokens")
    exact = program.module()(IMAGES)
    planned = build_plan(program, networks.recipe(8, "onnxruntime"))
    assert equalize_program(program, planned) == pytest.approx(0)
    assert torch.equal(program.module()(IMAGES), exact)


def test_frozen_weights_are_equalized_like_any() -> None:
    network = networks.network("imdn")
    states = [
        srptq_plugin.equalize(module, networks.recipe(4, "onnxruntime"), IMAGES).state_dict()
        for module in (network, copy.deepcopy(network).requires_grad_(requires_grad=False))
    ]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.usefixtures("few_steps")
def test_the_same_seed_gives_the_same_factors() -> None:
    planned, states = plan("imdn", 4), list[dict[str, Tensor]]()
    for _ in range(2):
        program = exported("imdn")
        equalize_program(program, planned, seed=2)
        states.append(dict(program.state_dict))
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.usefixtures("few_steps")
@pytest.mark.parametrize("toolkit", ["torchao", "mqbench"])
@pytest.mark.parametrize("size", [None, (1, 3, 16, 20)])
def test_recipes_switch_equalization_on(toolkit: str, size: tuple[int, int, int, int] | None, tmp_path: Path) -> None:
    pytest.importorskip("torchao")
    settings = {"calibration": {"patches": 4, "size": 16, "batch": 2}, "equalize": True}
    network = networks.network("edsr")
    before = copy.deepcopy(network.state_dict())
    recipe = networks.recipe(8, "onnxruntime", **settings)
    run = quantize(recipe, model=network, out=tmp_path / "run", device="cpu", toolkit=toolkit, input_size=size)
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["equalized_db"] > 0
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    image = networks.images(1, 16, 20)
    exact = network(image).detach()
    session = onnxruntime.InferenceSession(str(tmp_path / "run" / "model.onnx"))
    floats = torch.from_numpy(session.run(None, {session.get_inputs()[0].name: image.numpy()})[0])
    assert torch.allclose(floats, exact, atol=1e-5)
    assert torch.allclose(torch.from_numpy(run.float()(image.numpy())), exact, atol=1e-5)
    runtime = torch.from_numpy(run.target.load(run.artifacts[0])(image.numpy()))
    assert (runtime - exact).square().mean() < 1e-2 * exact.var()
