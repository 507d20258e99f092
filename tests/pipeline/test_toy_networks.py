"""Toy networks run in integers as they are simulated, at any size or at one."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from helpers import networks
from helpers.small_runs import require_runtime, small
from torch import Tensor, nn

from srptq_plugin.deploy.onnx_export import metadata_of
from srptq_plugin.graph.network import MOVEMENT, Network
from srptq_plugin.pipeline import quantize
from srptq_plugin.runs.run import NETWORK, Run

pytest.importorskip("torchao")

SILENT = ("input", "output", "relu", "leaky_relu", "prelu", "tanh", "sigmoid")
"""Operations that need no integers of their own: OpenVINO computes activations inside convolutions."""
TOYS = [
    *((kind, "openvino", {}) for kind in (*networks.NETWORKS, "normed", "rdn", "fsrcnn", "lapsrn")),
    *((kind, "onnxruntime", {}) for kind in ("edsr", "mixed", "imdn", "shared", "rdn")),
    ("mixed", "openvino", {"preset": "performance"}),
    ("imdn", "openvino", {"preset": "performance", "placement": "convs"}),
    ("lapsrn", "openvino", {"preset": "performance"}),
    ("fsrcnn", "onnxruntime", {}),
    *((kind, target, {}) for kind in networks.SIZE_DEPENDENT for target in ("openvino", "onnxruntime")),
]


class Twins(nn.Module):
    """Two convolutions of equal weights, which torch's exporter writes once."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = networks.conv(3, 3), networks.conv(3, 3)
        self.second.load_state_dict(self.first.state_dict())
        self.tail = networks.conv(3, 12)

    def forward(self, image: Tensor) -> Tensor:
        return nn.functional.pixel_shuffle(self.tail(self.second(self.first(image).relu())), 2)


def test_equal_weights_have_integers_of_their_own(tmp_path: Path) -> None:
    require_runtime("onnxruntime")
    run = quantize(small("onnxruntime"), model=Twins().eval(), out=tmp_path / "run")
    assert run.summary["verify"]["passed"]


@pytest.mark.parametrize(("kind", "target", "keys"), TOYS, ids=lambda part: part if isinstance(part, str) else "")
def test_a_toy_network_runs_in_integers(
    kind: str, target: str, keys: Mapping[str, Any], photographs: Path, tmp_path: Path
) -> None:
    require_runtime(target)
    run = quantize(small(target, **keys), model=networks.network(kind), images=photographs, out=tmp_path / "run")
    report = run.summary["verify"]
    assert report["passed"], report["problems"]
    assert report["convs_planned"] == report["convs_int8"] == len(run.table.plan.convs) == run.summary["convs"]
    assert len(report["sizes"]) == 7
    # A wrong quantizer gave less than 50 dB here. A tie alone, rounded to the other side, leaves 54 dB.
    assert all(size["psnr"] is None or size["psnr"] > 52 for size in report["sizes"])
    assert report["psnr"] is None or report["psnr"] > 55
    assert_floats_have_reasons(run)


def assert_floats_have_reasons(run: Run) -> None:
    """Check that each operation reads integers, moves them, is fused with the one before, or is named with a reason."""
    network = Network(run.network)
    floats = run.summary["floats"]
    readers = {edge.consumer for site in run.table.plan.sites for edge in site.consumers}
    for node in network.varying:
        op, name = network.ops[node], network.name(node)
        if op not in MOVEMENT and op not in SILENT and name not in readers:
            assert floats.get(name), f"{name} is neither quantized nor named"
    assert set(floats) <= set(network.nodes)
    assert not set(floats) & set(run.table.plan.convs)


def test_float_operations_are_named_with_reasons(photographs: Path, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    recipe = small("openvino", overrides=[{"sites": "right", "quantize": False}])
    run = quantize(recipe, model=networks.network("mixed"), images=photographs, out=tmp_path / "run")
    floats = run.summary["floats"]
    assert floats["right/conv"] == "the recipe leaves it float"
    assert floats["attention.squeeze/conv"].startswith("works on pooled 1 x 1 maps")
    assert floats["/sub"] == "no integer kernel on this target"
    assert run.summary["verify"]["convs_int8"] == run.summary["verify"]["convs_planned"] == 5


@pytest.mark.parametrize("target", ["openvino", "onnxruntime"])
def test_any_size_and_any_batch(target: str, photographs: Path, tmp_path: Path) -> None:
    require_runtime(target)
    run = quantize(small(target), model=networks.network("shared"), images=photographs, out=tmp_path / "run")
    for batch, height, width in ((1, 7, 5), (3, 16, 31), (2, 33, 8)):
        assert_near_simulation(run, batch, height, width)


def assert_near_simulation(run: Run, batch: int, height: int, width: int) -> None:
    """Check that the runtime is five times nearer to the simulation than the simulation is to the float network."""
    image = networks.images(batch, height, width, seed=batch).numpy()
    measured, simulated, exact = run.target.load(run.artifacts[0])(image), run.simulation()(image), run.float()(image)
    assert measured.shape == simulated.shape == exact.shape == (batch, 3, 2 * height, 2 * width)
    assert np.square(measured - simulated).mean() < 0.04 * np.square(simulated - exact).mean()


def test_a_fixed_size_is_exported_and_verified(photographs: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    run = quantize_fixed("onnxruntime", photographs, tmp_path / "run")
    assert run.size == (19, 26)
    assert run.summary["model"]["input_size"] == [1, 3, 19, 26]
    assert [(size["height"], size["width"]) for size in run.summary["verify"]["sizes"]] == [(19, 26)] * 4
    assert run.summary["verify"]["passed"]
    for name in (NETWORK, *run.summary["artifacts"]):
        graph = onnx.load(run.folder / name).graph
        assert [side.dim_value for side in graph.input[0].type.tensor_type.shape.dim] == [1, 3, 19, 26]
        assert [side.dim_value for side in graph.output[0].type.tensor_type.shape.dim] == [1, 3, 38, 52]
    assert_near_simulation(run, 1, 19, 26)


def test_a_fixed_size_in_openvino(photographs: Path, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    run = quantize_fixed("openvino", photographs, tmp_path / "run")
    assert run.summary["verify"]["passed"]
    assert "-data_shape" not in run.summary["command"]


def quantize_fixed(target: str, photographs: Path, out: Path) -> Run:
    model = networks.network("shared")
    return quantize(small(target), model=model, images=photographs, out=out, input_size=(1, 3, 19, 26))


def test_exported_files_have_metadata(photographs: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    model = networks.network("shared")
    run = quantize(small("onnxruntime"), model=model, images=photographs, out=tmp_path / "run", input_range=(-1.0, 1.0))
    expected = {"scale": 2, "input_range": [-1.0, 1.0], "mean": None, "name": "Shared"}
    for name in (NETWORK, *run.summary["artifacts"]):
        assert metadata_of(onnx.load(run.folder / name)) == expected
    assert run.input_range == (-1.0, 1.0)
    image = next(site for site in run.summary["sites"] if site["name"] == "/input")
    assert (image["lower"][0], image["upper"][0]) == pytest.approx((-1, 1), abs=0.01)
