"""What `convert_deploy` writes while we are active, read back by runtimes; and each flaw when its repair is missing."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from helpers import networks
from helpers.runtimes import Array, decibels, in_onnxruntime, in_openvino, integers
from mqbench import convert_deploy as deploying  # pyright: ignore[reportAttributeAccessIssue]
from mqbench import prepare_by_platform as platform  # pyright: ignore[reportAttributeAccessIssue]
from mqbench.fake_quantize.quantize_base import QuantizeBase  # pyright: ignore[reportMissingImports]
from mqbench.utils.state import enable_calibration, enable_quantization  # pyright: ignore[reportMissingImports]
from torch import fx, nn
from torch.nn import functional

import srptq_plugin
from srptq_adapters.mqbench import host
from srptq_adapters.mqbench.repairs import repairs

pytestmark = pytest.mark.usefixtures("real")

SYMMETRIC = {
    "Academic": True,
    "Tensorrt": True,
    "SNPE": False,
    "OPENVINO": True,
    "QDQ": True,
    "PPLCUDA": False,
}
"""The backends, and whether MQBench's defaults for them are symmetric."""
FLOAT_FILES = ("Tensorrt", "SNPE", "PPLCUDA")
"""Those whose deployed file is the float network."""
CASES = [(backend, bits, per) for backend in SYMMETRIC for bits in (3, 4, 8) for per in ("tensor", "channel")]
IMAGES = networks.images(2, seed=5)
Needs = Callable[[str], None]


class Plain(nn.Module):
    """No residual: OpenVINO fuses an add into the convolution before it, and drops a quantizer in between."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.head, self.grow, self.tail = (
            nn.Conv2d(3, 6, 3, padding=1),
            nn.Conv2d(6, 24, 3, padding=1),
            nn.Conv2d(6, 3, 3, padding=1),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.tail(functional.pixel_shuffle(self.grow(functional.relu(self.head(x))), 2))


class Ties(nn.Module):
    """Weights half-way between two levels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 512, 3, padding=1, bias=False)
        tops = torch.linspace(0.1, 1, 512)[:, None]
        halves = torch.arange(26) + 0.5
        self.conv.weight.data = torch.cat([tops, tops / 127 * halves], 1).reshape(512, 3, 3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)


@dataclass(frozen=True)
class Deployed:
    """A quantized model, and the folder with its files."""

    model: fx.GraphModule
    folder: Path

    @property
    def drawn(self) -> Array:
        with torch.no_grad():
            return self.model(IMAGES).numpy()

    @property
    def qdq(self) -> Path:
        return self.folder / "m.onnx"

    @property
    def deployed(self) -> Path:
        return self.folder / "m_deploy_model.onnx"

    @property
    def encodings(self) -> dict[str, Any]:
        return json.loads((self.folder / "m_clip_ranges.json").read_text())

    @property
    def quantizers(self) -> list[Any]:
        return [each for each in self.model.modules() if isinstance(each, QuantizeBase)]


Deploy = Callable[..., Deployed]


def quantized(network: nn.Module, backend: str, **qconfig: Any) -> fx.GraphModule:
    stock = dict.fromkeys(("w_fakequantize", "a_fakequantize"), "FixedFakeQuantize")
    given = {"w_observer": "MinMaxObserver", "a_observer": "dbdc", **stock, **qconfig}
    model = platform.prepare_by_platform(network, platform.BackendType[backend], {"extra_qconfig_dict": given}).eval()
    enable_calibration(model)
    with torch.no_grad():
        model(networks.images(seed=1))
    enable_quantization(model)
    return model


def schemes(backend: str, bits: int, per: str = "channel") -> dict[str, Any]:
    shared = {"bit": bits, "symmetry": SYMMETRIC[backend], "pot_scale": False}
    return {"w_qscheme": shared | {"per_channel": per == "channel"}, "a_qscheme": shared | {"per_channel": False}}


def convert(model: fx.GraphModule, backend: str, folder: Path) -> None:
    chosen = platform.BackendType[backend]
    deploying.convert_deploy(model, chosen, {"x": list(IMAGES.shape)}, output_path=str(folder), model_name="m")


def written(folder: Path, network: nn.Module, backend: str, **qconfig: Any) -> Deployed:
    model = quantized(network, backend, **qconfig)
    convert(model, backend, folder)
    return Deployed(model, folder)


@pytest.fixture(scope="module")
def deploy(tmp_path_factory: pytest.TempPathFactory) -> Deploy:
    """A toy network as it was deployed, once for each case."""

    @cache
    def run(backend: str, bits: int, per: str = "channel", kind: str = "edsr") -> Deployed:
        srptq_plugin.activate("mqbench")
        try:
            network = Plain() if kind == "plain" else networks.network(kind)
            given = schemes(backend, bits, per)
            return written(tmp_path_factory.mktemp(backend), network, backend, **given)
        finally:
            srptq_plugin.deactivate("mqbench")

    return run


@pytest.fixture
def lacking(monkeypatch: pytest.MonkeyPatch) -> Iterator[Needs]:
    """Everything that activating does, but for one repair."""

    def activate(name: str) -> None:
        (left,) = (each for each in repairs() if each.name == name)
        if not left.needed:
            pytest.skip("not broken here")
        monkeypatch.setattr(host, "repairs", lambda: [each for each in repairs() if each.name != name])
        srptq_plugin.activate("mqbench")

    srptq_plugin.deactivate("mqbench")
    yield activate
    srptq_plugin.deactivate("mqbench")


def floats(kind: str = "edsr") -> Array:
    with torch.no_grad():
        return networks.network(kind)(IMAGES).numpy()


def weights_of(path: Path) -> set[str]:
    return {each.name for each in onnx.load(path).graph.initializer if len(each.dims) == 4}


def out_of_range(found: Deployed) -> int:
    """How many integers of the file the model's own quantizers, known by their scales, never use."""
    ends = {float(each.scale[0]): (each.quant_min, each.quant_max) for each in found.quantizers}
    wrong = 0
    for scale, values in integers(found.qdq, IMAGES):
        low, high = ends[float(scale[0])]
        wrong += int(((values < low) | (values > high)).sum())
    return wrong


@pytest.mark.parametrize(("backend", "bits", "per"), CASES)
def test_the_qdq_file_draws_what_torch_draws(backend: str, bits: int, per: str, deploy: Deploy) -> None:
    found = deploy(backend, bits, per)
    assert decibels(in_onnxruntime(found.qdq)(IMAGES), found.drawn) > 120


@pytest.mark.parametrize("kind", ["imdn", "esrgan", "mixed", "rdn"])
@pytest.mark.parametrize("backend", ["Academic", "Tensorrt", "SNPE", "QDQ", "PPLCUDA"])
def test_so_do_those_of_other_networks(kind: str, backend: str, deploy: Deploy) -> None:
    found = deploy(backend, 4, kind=kind)
    assert decibels(in_onnxruntime(found.qdq)(IMAGES), found.drawn) > 120


@pytest.mark.parametrize("kind", ["imdn", "esrgan", "mixed", "rdn"])
def test_networks_that_split_or_interpolate_deploy_to_openvino(kind: str, deploy: Deploy) -> None:
    found = deploy("OPENVINO", 4, kind=kind)
    assert decibels(in_onnxruntime(found.qdq)(IMAGES), found.drawn) > 120


@pytest.mark.parametrize(("backend", "bits", "per"), CASES)
def test_no_integer_leaves_its_range(backend: str, bits: int, per: str, deploy: Deploy) -> None:
    assert out_of_range(deploy(backend, bits, per)) == 0


@pytest.mark.parametrize(("backend", "bits", "per"), [case for case in CASES if case[0] in FLOAT_FILES])
def test_the_deployed_float_network_is_near_the_one_that_was_given(
    backend: str, bits: int, per: str, deploy: Deploy
) -> None:
    drawn = in_onnxruntime(deploy(backend, bits, per).deployed)(IMAGES)
    assert np.abs(drawn - floats()).max() < 1


@pytest.mark.parametrize(("backend", "bits", "per"), [case for case in CASES if case[0] == "OPENVINO"])
def test_openvinos_file_runs_in_openvino_and_in_onnx_runtime(backend: str, bits: int, per: str, deploy: Deploy) -> None:
    found = deploy(backend, bits, per, kind="plain")
    assert decibels(in_openvino(found.deployed)(IMAGES), found.drawn) > 100
    assert decibels(in_onnxruntime(found.deployed)(IMAGES), found.drawn) > 60  # a tie may be rounded otherwise


def test_openvinos_file_of_a_network_with_residuals_loads_in_both(deploy: Deploy) -> None:
    found = deploy("OPENVINO", 8)
    assert in_openvino(found.deployed)(IMAGES).shape == found.drawn.shape
    assert decibels(in_onnxruntime(found.deployed)(IMAGES), found.drawn) > 100


@pytest.mark.usefixtures("active")
@pytest.mark.parametrize("bits", range(2, 9))
def test_openvinos_file_has_the_activations_bits(bits: int, tmp_path: Path) -> None:
    scheme = {"bit": bits, "symmetry": False, "per_channel": False, "pot_scale": False}
    found = written(tmp_path, Plain(), "OPENVINO", a_qscheme=scheme)
    assert decibels(in_onnxruntime(found.deployed)(IMAGES), found.drawn) > 100


@pytest.mark.parametrize(("backend", "bits", "per"), [case for case in CASES if case[0] == "SNPE"])
def test_snpes_encodings_are_whole(backend: str, bits: int, per: str, deploy: Deploy) -> None:
    found = deploy(backend, bits, per)
    assert found.encodings["version"] == "0.6.1"
    assert found.encodings["param_encodings"].keys() == weights_of(found.deployed)
    assert found.encodings["activation_encodings"]
    assert_consistent(found.encodings, bits)


@pytest.mark.usefixtures("active")
@pytest.mark.parametrize("narrow", [{}, {"symmetric_range": True}], ids=["full", "narrow"])
def test_those_of_symmetric_weights_are_whole_too(narrow: dict[str, bool], tmp_path: Path) -> None:
    scheme = {"bit": 8, "symmetry": True, "per_channel": True, "pot_scale": False, **narrow}
    found = written(tmp_path, Plain(), "SNPE", w_qscheme=scheme)
    assert all(one["is_symmetric"] == "True" for each in found.encodings["param_encodings"].values() for one in each)
    assert_consistent(found.encodings, 8)


def assert_consistent(content: dict[str, Any], bits: int) -> None:
    sides = (content["activation_encodings"], content["param_encodings"])
    for one in (one for side in sides for each in side.values() for one in each):
        assert one["bitwidth"] == bits
        assert one["scale"] > 0
        assert one["min"] <= 0 <= one["max"]
        assert one["min"] == pytest.approx(one["scale"] * one["offset"])
        assert one["max"] == pytest.approx(one["min"] + one["scale"] * (2**bits - 1))


@pytest.mark.usefixtures("active")
@pytest.mark.parametrize("backend", SYMMETRIC)
@pytest.mark.parametrize("quantizer", ["LearnableFakeQuantize", "BoundedFakeQuantize"])
def test_deploying_leaves_the_model_as_it_was(quantizer: str, backend: str, tmp_path: Path) -> None:
    names = dict.fromkeys(("w_fakequantize", "a_fakequantize"), quantizer)
    model = quantized(networks.network("edsr"), backend, **schemes(backend, 4), **names)
    before = Deployed(model, tmp_path).drawn
    state = {name: value.clone() for name, value in model.state_dict().items()}
    convert(model, backend, tmp_path)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert np.array_equal(Deployed(model, tmp_path).drawn, before)


def test_mean_shifts_of_equal_weights_keep_a_weight_each_in_tensorrts_file(deploy: Deploy) -> None:
    found = deploy("Tensorrt", 8)
    network = networks.network("edsr")
    assert torch.equal(network.get_parameter("sub_mean.weight"), network.get_parameter("add_mean.weight"))
    convs = [node for node in onnx.load(found.deployed).graph.node if node.op_type == "Conv"]
    assert all(node.input[1] in weights_of(found.deployed) for node in convs)
    assert len(convs) == 10


def test_without_being_handed_on_dynamic_axes_are_lost(lacking: Needs, tmp_path: Path) -> None:
    lacking("dynamic_axes, output_names")
    with pytest.raises(Exception, match=r"(?i)dimension"):
        assert in_onnxruntime(dynamic(tmp_path))(networks.images(1, 9, 21)).shape == (1, 3, 18, 42)


@pytest.mark.usefixtures("active")
def test_dynamic_axes_and_names_reach_the_file(tmp_path: Path) -> None:
    path = dynamic(tmp_path)
    assert onnx.load(path).graph.output[0].name == "large"
    assert in_onnxruntime(path)(networks.images(1, 9, 21)).shape == (1, 3, 18, 42)


def dynamic(folder: Path) -> Path:
    model = quantized(Plain(), "QDQ")
    wanted = {"dynamic_axes": {"x": {0: "n", 2: "h", 3: "w"}}, "output_names": ["large"]}
    chosen, shape = platform.BackendType.QDQ, {"x": list(IMAGES.shape)}
    deploying.convert_deploy(model, chosen, shape, output_path=str(folder), model_name="m", **wanted)
    return folder / "m.onnx"


def test_without_the_torchscript_export_nothing_is_written(lacking: Needs, tmp_path: Path) -> None:
    lacking("TorchScript export")
    with pytest.raises(Exception):  # noqa: B017, PT011 - torch's own, which changes from release to release
        written(tmp_path, Plain(), "QDQ")


@pytest.mark.parametrize("backend", ["SNPE", "PPLCUDA"])
def test_without_wide_zero_points_the_deployed_weights_are_wrong(backend: str, lacking: Needs, tmp_path: Path) -> None:
    lacking("zero points")
    found = written(tmp_path, networks.network("edsr"), backend, **schemes(backend, 8))
    assert np.abs(in_onnxruntime(found.deployed)(IMAGES) - floats()).max() > 1


@pytest.mark.parametrize("backend", ["SNPE", "PPLCUDA"])
def test_without_a_reader_of_outputs_a_quantized_output_cannot_be_deployed(
    backend: str, lacking: Needs, tmp_path: Path
) -> None:
    lacking("quantized output")
    with pytest.raises((KeyError, IndexError)):
        written(tmp_path, networks.network("mixed"), backend)


@pytest.mark.usefixtures("active")
def test_weights_between_two_levels_are_rounded_as_torch_rounds_them(tmp_path: Path) -> None:
    found = between_levels(tmp_path)
    assert decibels(in_onnxruntime(found.qdq)(IMAGES), found.drawn) > 120


def test_without_being_put_at_their_levels_some_are_not(lacking: Needs, tmp_path: Path) -> None:
    lacking("weights at their levels")
    found = between_levels(tmp_path)
    assert decibels(in_onnxruntime(found.qdq)(IMAGES), found.drawn) < 60


def between_levels(folder: Path) -> Deployed:
    scheme = {"bit": 8, "symmetry": True, "per_channel": True, "pot_scale": False, "symmetric_range": True}
    return written(folder, Ties(), "QDQ", w_qscheme=scheme)


@pytest.mark.parametrize("backend", FLOAT_FILES)
def test_without_weights_of_their_own_equal_mean_shifts_cannot_be_deployed(
    backend: str, lacking: Needs, tmp_path: Path
) -> None:
    lacking("shared weights")
    with pytest.raises(AssertionError):
        written(tmp_path, networks.network("edsr"), backend, **schemes(backend, 8))


@pytest.mark.parametrize("backend", SYMMETRIC)
def test_without_the_clip_integers_below_8_bits_leave_their_range(backend: str, lacking: Needs, tmp_path: Path) -> None:
    lacking("range below 8 bits")
    found = written(tmp_path, networks.network("edsr"), backend, **schemes(backend, 4))
    assert out_of_range(found) > 0


def test_without_its_repair_snpes_file_has_neither_version_nor_parameters(lacking: Needs, tmp_path: Path) -> None:
    lacking("SNPE encodings")
    found = written(tmp_path, Plain(), "SNPE").encodings
    assert "version" not in found
    assert not found["param_encodings"]
    assert all("scale" not in one for each in found["activation_encodings"].values() for one in each)


def test_without_their_shape_openvinos_ranges_are_another_axis(lacking: Needs, tmp_path: Path) -> None:
    lacking("OPENVINO ranges")
    found = written(tmp_path, Plain(), "OPENVINO")
    with pytest.raises(Exception):  # noqa: B017, PT011 - the runtimes' own
        assert decibels(in_onnxruntime(found.deployed)(IMAGES), found.drawn) > 100


def test_without_its_meaning_onnx_runtime_does_not_know_openvinos_operation(lacking: Needs, tmp_path: Path) -> None:
    lacking("OPENVINO FakeQuantize")
    found = written(tmp_path, Plain(), "OPENVINO")
    with pytest.raises(Exception, match="FakeQuantize"):
        in_onnxruntime(found.deployed)


@pytest.mark.usefixtures("active")
def test_pact_starts_from_dbdc() -> None:
    assert 6 not in alphas()


def test_without_its_repair_pact_starts_where_it_always_does(lacking: Needs) -> None:
    lacking("PACT's start")
    assert set(alphas()) == {6}


def alphas() -> list[float]:
    model = quantized(Plain(), "SNPE", a_fakequantize="PACTFakeQuantize")
    found = [float(value) for name, value in model.named_parameters() if name.endswith(".alpha")]
    assert found
    return found
