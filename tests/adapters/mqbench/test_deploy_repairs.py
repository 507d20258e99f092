"""Each defect of `convert_deploy` without its repair, and what the repair changes."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from helpers import networks
from helpers.mqbench_files import (
    FLOAT_FILES,
    IMAGES,
    SYMMETRIC,
    Deployed,
    Plain,
    floats,
    out_of_range,
    quantized,
    schemes,
    written,
)
from helpers.runtimes import decibels, in_onnxruntime
from mqbench import convert_deploy as deploying  # pyright: ignore[reportAttributeAccessIssue]
from mqbench import prepare_by_platform as platform  # pyright: ignore[reportAttributeAccessIssue]
from torch import nn

import srptq_plugin
from srptq_adapters.mqbench import host
from srptq_adapters.mqbench.repairs import repairs

pytestmark = pytest.mark.usefixtures("real")

Needs = Callable[[str], None]


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
