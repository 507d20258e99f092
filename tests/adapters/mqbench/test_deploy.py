"""Files that `convert_deploy` writes while we are active, run by runtimes, and each defect without its repair."""

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
"""Backends whose deployed file is the float network."""
CASES = [(backend, bits, per) for backend in SYMMETRIC for bits in (3, 4, 8) for per in ("tensor", "channel")]
IMAGES = networks.images(2, seed=5)
Needs = Callable[[str], None]


class Plain(nn.Module):
    """A network without residuals, as OpenVINO fuses an add into the convolution before it and skips a quantizer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.head = nn.Conv2d(3, 6, 3, padding=1)
        self.grow = nn.Conv2d(6, 24, 3, padding=1)
        self.tail = nn.Conv2d(6, 3, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.tail(functional.pixel_shuffle(self.grow(functional.relu(self.head(x))), 2))


class Ties(nn.Module):
    """A layer with weights half-way between two levels."""

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
        return [module for module in self.model.modules() if isinstance(module, QuantizeBase)]


Deploy = Callable[..., Deployed]


def quantized(network: nn.Module, backend: str, **qconfig: Any) -> fx.GraphModule:
    stock = dict.fromkeys(("w_fakequantize", "a_fakequantize"), "FixedFakeQuantize")
    config = {"w_observer": "MinMaxObserver", "a_observer": "dbdc", **stock, **qconfig}
    model = platform.prepare_by_platform(network, platform.BackendType[backend], {"extra_qconfig_dict": config}).eval()
    enable_calibration(model)
    with torch.no_grad():
        model(networks.images(seed=1))
    enable_quantization(model)
    return model


def schemes(backend: str, bits: int, per: str = "channel") -> dict[str, Any]:
    shared = {"bit": bits, "symmetry": SYMMETRIC[backend], "pot_scale": False}
    return {"w_qscheme": shared | {"per_channel": per == "channel"}, "a_qscheme": shared | {"per_channel": False}}


def convert(model: fx.GraphModule, backend: str, folder: Path) -> None:
    backend_type = platform.BackendType[backend]
    deploying.convert_deploy(model, backend_type, {"x": list(IMAGES.shape)}, output_path=str(folder), model_name="m")


def written(folder: Path, network: nn.Module, backend: str, **qconfig: Any) -> Deployed:
    model = quantized(network, backend, **qconfig)
    convert(model, backend, folder)
    return Deployed(model, folder)


@pytest.fixture(scope="module")
def deploy(tmp_path_factory: pytest.TempPathFactory) -> Deploy:
    """Return a function that deploys a toy network, once for each case."""

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
    """Return a function that activates all but one repair."""

    def activate(name: str) -> None:
        (left_out,) = (repair for repair in repairs() if repair.name == name)
        if not left_out.needed:
            pytest.skip("not broken here")
        monkeypatch.setattr(host, "repairs", lambda: [repair for repair in repairs() if repair.name != name])
        srptq_plugin.activate("mqbench")

    srptq_plugin.deactivate("mqbench")
    yield activate
    srptq_plugin.deactivate("mqbench")


def floats(kind: str = "edsr") -> Array:
    with torch.no_grad():
        return networks.network(kind)(IMAGES).numpy()


def weight_names(path: Path) -> set[str]:
    return {tensor.name for tensor in onnx.load(path).graph.initializer if len(tensor.dims) == 4}


def out_of_range(deployed: Deployed) -> int:
    """Count the integers of a file that lie outside the ranges of the model's quantizers, matched by their scales."""
    ends = {float(quantizer.scale[0]): (quantizer.quant_min, quantizer.quant_max) for quantizer in deployed.quantizers}
    wrong = 0
    for scale, values in integers(deployed.qdq, IMAGES):
        low, high = ends[float(scale[0])]
        wrong += int(((values < low) | (values > high)).sum())
    return wrong


@pytest.mark.parametrize(("backend", "bits", "per"), CASES)
def test_qdq_file_draws_what_torch_draws(backend: str, bits: int, per: str, deploy: Deploy) -> None:
    result = deploy(backend, bits, per)
    assert decibels(in_onnxruntime(result.qdq)(IMAGES), result.drawn) > 120


@pytest.mark.parametrize("kind", ["imdn", "esrgan", "mixed", "rdn"])
@pytest.mark.parametrize("backend", ["Academic", "Tensorrt", "SNPE", "QDQ", "PPLCUDA"])
def test_qdq_files_of_other_networks_draw_the_same(kind: str, backend: str, deploy: Deploy) -> None:
    result = deploy(backend, 4, kind=kind)
    assert decibels(in_onnxruntime(result.qdq)(IMAGES), result.drawn) > 120


@pytest.mark.parametrize("kind", ["imdn", "esrgan", "mixed", "rdn"])
def test_splits_and_interpolation_deploy_to_openvino(kind: str, deploy: Deploy) -> None:
    result = deploy("OPENVINO", 4, kind=kind)
    assert decibels(in_onnxruntime(result.qdq)(IMAGES), result.drawn) > 120


@pytest.mark.parametrize(("backend", "bits", "per"), CASES)
def test_integers_stay_in_range(backend: str, bits: int, per: str, deploy: Deploy) -> None:
    assert out_of_range(deploy(backend, bits, per)) == 0


@pytest.mark.parametrize(("backend", "bits", "per"), [case for case in CASES if case[0] in FLOAT_FILES])
def test_deployed_float_network_is_near_the_original(backend: str, bits: int, per: str, deploy: Deploy) -> None:
    drawn = in_onnxruntime(deploy(backend, bits, per).deployed)(IMAGES)
    assert np.abs(drawn - floats()).max() < 1


@pytest.mark.parametrize(("backend", "bits", "per"), [case for case in CASES if case[0] == "OPENVINO"])
def test_openvino_file_runs_in_both_runtimes(backend: str, bits: int, per: str, deploy: Deploy) -> None:
    result = deploy(backend, bits, per, kind="plain")
    assert decibels(in_openvino(result.deployed)(IMAGES), result.drawn) > 100
    assert (
        decibels(in_onnxruntime(result.deployed)(IMAGES), result.drawn) > 60
    )  # The runtimes may round ties differently.


def test_openvino_file_with_residuals_loads_in_both_runtimes(deploy: Deploy) -> None:
    result = deploy("OPENVINO", 8)
    assert in_openvino(result.deployed)(IMAGES).shape == result.drawn.shape
    assert decibels(in_onnxruntime(result.deployed)(IMAGES), result.drawn) > 100


@pytest.mark.usefixtures("active")
@pytest.mark.parametrize("bits", range(2, 9))
def test_openvino_file_has_the_bits_of_activations(bits: int, tmp_path: Path) -> None:
    scheme = {"bit": bits, "symmetry": False, "per_channel": False, "pot_scale": False}
    result = written(tmp_path, Plain(), "OPENVINO", a_qscheme=scheme)
    assert decibels(in_onnxruntime(result.deployed)(IMAGES), result.drawn) > 100


@pytest.mark.parametrize(("backend", "bits", "per"), [case for case in CASES if case[0] == "SNPE"])
def test_snpe_encodings_are_complete(backend: str, bits: int, per: str, deploy: Deploy) -> None:
    result = deploy(backend, bits, per)
    assert result.encodings["version"] == "0.6.1"
    assert result.encodings["param_encodings"].keys() == weight_names(result.deployed)
    assert result.encodings["activation_encodings"]
    assert_consistent(result.encodings, bits)


@pytest.mark.usefixtures("active")
@pytest.mark.parametrize("narrow", [{}, {"symmetric_range": True}], ids=["full", "narrow"])
def test_snpe_encodings_of_symmetric_weights_are_complete(narrow: dict[str, bool], tmp_path: Path) -> None:
    scheme = {"bit": 8, "symmetry": True, "per_channel": True, "pot_scale": False, **narrow}
    result = written(tmp_path, Plain(), "SNPE", w_qscheme=scheme)
    parameters = result.encodings["param_encodings"].values()
    assert all(encoding["is_symmetric"] == "True" for channels in parameters for encoding in channels)
    assert_consistent(result.encodings, 8)


def assert_consistent(content: dict[str, Any], bits: int) -> None:
    sides = (content["activation_encodings"], content["param_encodings"])
    for encoding in (encoding for side in sides for channels in side.values() for encoding in channels):
        assert encoding["bitwidth"] == bits
        assert encoding["scale"] > 0
        assert encoding["min"] <= 0 <= encoding["max"]
        assert encoding["min"] == pytest.approx(encoding["scale"] * encoding["offset"])
        assert encoding["max"] == pytest.approx(encoding["min"] + encoding["scale"] * (2**bits - 1))


@pytest.mark.usefixtures("active")
@pytest.mark.parametrize("backend", SYMMETRIC)
@pytest.mark.parametrize("quantizer", ["LearnableFakeQuantize", "BoundedFakeQuantize"])
def test_deploying_leaves_the_model_unchanged(quantizer: str, backend: str, tmp_path: Path) -> None:
    names = dict.fromkeys(("w_fakequantize", "a_fakequantize"), quantizer)
    model = quantized(networks.network("edsr"), backend, **schemes(backend, 4), **names)
    before = Deployed(model, tmp_path).drawn
    state = {name: value.clone() for name, value in model.state_dict().items()}
    convert(model, backend, tmp_path)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert np.array_equal(Deployed(model, tmp_path).drawn, before)


def test_equal_mean_shifts_keep_separate_weights_for_tensorrt(deploy: Deploy) -> None:
    result = deploy("Tensorrt", 8)
    network = networks.network("edsr")
    assert torch.equal(network.get_parameter("sub_mean.weight"), network.get_parameter("add_mean.weight"))
    convs = [node for node in onnx.load(result.deployed).graph.node if node.op_type == "Conv"]
    assert all(node.input[1] in weight_names(result.deployed) for node in convs)
    assert len(convs) == 10


def test_unrepaired_dynamic_axes_are_lost(lacking: Needs, tmp_path: Path) -> None:
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
    keywords = {"dynamic_axes": {"x": {0: "n", 2: "h", 3: "w"}}, "output_names": ["large"]}
    backend, shape = platform.BackendType.QDQ, {"x": list(IMAGES.shape)}
    deploying.convert_deploy(model, backend, shape, output_path=str(folder), model_name="m", **keywords)
    return folder / "m.onnx"


def test_unrepaired_export_writes_nothing(lacking: Needs, tmp_path: Path) -> None:
    lacking("TorchScript export")
    with pytest.raises(Exception):  # noqa: B017, PT011 - torch's own error changes from release to release
        written(tmp_path, Plain(), "QDQ")


@pytest.mark.parametrize("backend", ["SNPE", "PPLCUDA"])
def test_unrepaired_zero_points_give_wrong_weights(backend: str, lacking: Needs, tmp_path: Path) -> None:
    lacking("zero points")
    result = written(tmp_path, networks.network("edsr"), backend, **schemes(backend, 8))
    assert np.abs(in_onnxruntime(result.deployed)(IMAGES) - floats()).max() > 1


@pytest.mark.parametrize("backend", ["SNPE", "PPLCUDA"])
def test_unrepaired_quantized_output_cannot_be_deployed(backend: str, lacking: Needs, tmp_path: Path) -> None:
    lacking("quantized output")
    with pytest.raises((KeyError, IndexError)):
        written(tmp_path, networks.network("mixed"), backend)


@pytest.mark.usefixtures("active")
def test_weights_at_ties_are_rounded_as_by_torch(tmp_path: Path) -> None:
    result = between_levels(tmp_path)
    assert decibels(in_onnxruntime(result.qdq)(IMAGES), result.drawn) > 120


def test_unrepaired_weights_at_ties_are_rounded_otherwise(lacking: Needs, tmp_path: Path) -> None:
    lacking("weights at their levels")
    result = between_levels(tmp_path)
    assert decibels(in_onnxruntime(result.qdq)(IMAGES), result.drawn) < 60


def between_levels(folder: Path) -> Deployed:
    scheme = {"bit": 8, "symmetry": True, "per_channel": True, "pot_scale": False, "symmetric_range": True}
    return written(folder, Ties(), "QDQ", w_qscheme=scheme)


@pytest.mark.parametrize("backend", FLOAT_FILES)
def test_unrepaired_equal_mean_shifts_cannot_be_deployed(backend: str, lacking: Needs, tmp_path: Path) -> None:
    lacking("shared weights")
    with pytest.raises(AssertionError):
        written(tmp_path, networks.network("edsr"), backend, **schemes(backend, 8))


@pytest.mark.parametrize("backend", SYMMETRIC)
def test_unrepaired_integers_below_8_bits_leave_their_range(backend: str, lacking: Needs, tmp_path: Path) -> None:
    lacking("range below 8 bits")
    result = written(tmp_path, networks.network("edsr"), backend, **schemes(backend, 4))
    assert out_of_range(result) > 0


def test_unrepaired_snpe_encodings_lack_version_and_parameters(lacking: Needs, tmp_path: Path) -> None:
    lacking("SNPE encodings")
    encodings = written(tmp_path, Plain(), "SNPE").encodings
    assert "version" not in encodings
    assert not encodings["param_encodings"]
    assert all(
        "scale" not in encoding for channels in encodings["activation_encodings"].values() for encoding in channels
    )


def test_unrepaired_openvino_ranges_lie_along_another_axis(lacking: Needs, tmp_path: Path) -> None:
    lacking("OPENVINO ranges")
    result = written(tmp_path, Plain(), "OPENVINO")
    with pytest.raises(Exception):  # noqa: B017, PT011 - an error of the runtimes or of the assertion
        assert decibels(in_onnxruntime(result.deployed)(IMAGES), result.drawn) > 100


def test_unrepaired_openvino_operation_is_unknown_to_onnx_runtime(lacking: Needs, tmp_path: Path) -> None:
    lacking("OPENVINO FakeQuantize")
    result = written(tmp_path, Plain(), "OPENVINO")
    with pytest.raises(Exception, match="FakeQuantize"):
        in_onnxruntime(result.deployed)


@pytest.mark.usefixtures("active")
def test_pact_starts_from_dbdc() -> None:
    assert 6 not in alphas()


def test_unrepaired_pact_starts_at_its_default(lacking: Needs) -> None:
    lacking("PACT's start")
    assert set(alphas()) == {6}


def alphas() -> list[float]:
    model = quantized(Plain(), "SNPE", a_fakequantize="PACTFakeQuantize")
    values = [float(parameter) for name, parameter in model.named_parameters() if name.endswith(".alpha")]
    assert values
    return values
