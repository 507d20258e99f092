"""OpenVINO runs in integers as simulated."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from helpers import networks
from torch import Tensor, nn

from srptq_plugin import quantize
from srptq_plugin.deploy.onnx_export import OnnxNetwork, export_float
from srptq_plugin.deploy.quant_table import QuantTable
from srptq_plugin.errors import MissingRuntimeError, SrptqError
from srptq_plugin.graph.export import export_network, graph_of
from srptq_plugin.graph.network import Network
from srptq_plugin.planning.prepared_graph import PreparedGraph, build_quantizer, insert_quantizers
from srptq_plugin.plugins.bound_recipe import BoundRecipe
from srptq_plugin.plugins.protocols import Runtime
from srptq_plugin.plugins.registry import Registry

pytest.importorskip("openvino")

import openvino

from srptq_adapters.targets.openvino import TARGET

Deploy = Callable[..., tuple[QuantTable, list[Path]]]
ErrorShare = Callable[[str, QuantTable, Runtime], float]
KINDS = [*networks.NETWORKS, "normed", "rdn", "fsrcnn", "lapsrn", "tokens"]
MOST = 0.2
"""A share of the error of quantization. A few values on a tie give less than 0.1. One quantizer that the runtime
leaves out or adds gave more than 0.3 on these networks."""


@pytest.mark.parametrize("placement", ["full", "convs"])
@pytest.mark.parametrize("preset", ["mixed", "performance"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_convolution_runs_in_integers_as_simulated(
    kind: str, preset: str, placement: str, deploy: Deploy, error_share: ErrorShare
) -> None:
    table, files = deploy(kind, "openvino", preset=preset, placement=placement)
    runtime = TARGET.load(files[0])
    assert runtime.integer_convs() == len(table.plan.convs)
    assert error_share(kind, table, runtime) < MOST


@pytest.mark.parametrize("placement", ["full", "convs"])
def test_rrdb_runs_in_integers_as_simulated(placement: str, deploy: Deploy, error_share: ErrorShare) -> None:
    """Run without symmetric activations: in one image of three a tie spreads through all 36 convolutions."""
    table, files = deploy("rrdb", "openvino", placement=placement)
    runtime = TARGET.load(files[0])
    assert runtime.integer_convs() == len(table.plan.convs) == 36
    assert error_share("rrdb", table, runtime) < MOST


@pytest.mark.parametrize("kind", ["edsr", "imdn"])
@pytest.mark.parametrize("bits", [2, 4, 6])
def test_narrow_integers_run_in_integers_as_simulated(
    kind: str, bits: int, deploy: Deploy, error_share: ErrorShare
) -> None:
    table, files = deploy(kind, "openvino", bits, preset="performance")
    runtime = TARGET.load(files[0])
    assert runtime.integer_convs() == len(table.plan.convs)
    assert error_share(kind, table, runtime) < MOST


def test_a_convolution_left_float_is_not_counted(deploy: Deploy) -> None:
    table, files = deploy("edsr", "openvino", overrides=[{"sites": "tail", "quantize": False}])
    assert "tail/conv" not in table.plan.convs
    assert TARGET.load(files[0]).integer_convs() == len(table.plan.convs) == 7


class Skips(nn.Module):
    """Adds in the kernel of the convolution before: scaled, after another add, and of two convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.grow = networks.conv(3, 6), networks.conv(6, 12)
        self.first, self.second, self.third = (networks.conv(6, 6) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shallow = self.head(x)
        deep = shallow + 0.1 * self.first(shallow)
        deep = shallow + 0.3 * (deep + self.second(torch.relu(deep)))
        deep = self.third(deep) + deep
        return nn.functional.pixel_shuffle(self.grow(shallow + deep), 2)


@pytest.mark.parametrize("preset", ["mixed", "performance"])
def test_a_fused_branch_has_no_quantizer(preset: str, tmp_path: Path) -> None:
    torch.manual_seed(3)
    recipe, registry = networks.recipe(8, "openvino", preset=preset), Registry()
    program = export_network(Skips())
    network = Network(graph_of(program))
    plan = BoundRecipe.of(recipe, registry).plan(network, (0.0, 1.0))
    sources = {site.source for site in plan.sites if site.role == "activation"}
    assert not sources & {"first/conv", "second/conv", "third/conv", "/mul", "/mul.1"}
    quantizers = {group: build_quantizer(plan, group) for group in plan.groups}
    prepared = PreparedGraph(insert_quantizers(network.module, plan, quantizers), plan)
    prepared.observe([networks.images(seed=seed) for seed in (1, 2)])
    table = QuantTable.of(prepared)
    export_float(program, tmp_path / "float.onnx", {})
    runtime = TARGET.load(TARGET.write(tmp_path / "float.onnx", table, tmp_path)[0])
    assert runtime.integer_convs() == 5
    image = networks.images(1, 21, 27, seed=5)
    simulated = table.simulate(graph_of(program))(image).detach()
    exact = PreparedGraph.float_only(graph_of(program))(image).detach()
    wrong = torch.from_numpy(runtime(image.numpy())) - simulated
    assert wrong.square().mean().sqrt() < MOST * (simulated - exact).square().mean().sqrt()


def test_pixel_shuffle_moves_integers_without_another_quantizer(deploy: Deploy) -> None:
    _, files = deploy("edsr", "openvino")
    model = onnx.load(files[2])
    producers = {name: node for node in model.graph.node for name in node.output}
    tail = OnnxNetwork(model).nodes["tail/conv"]
    shuffle = producers[tail.input[0]]
    assert shuffle.op_type == "DepthToSpace"
    assert producers[shuffle.input[0]].op_type == "DequantizeLinear"


def test_a_split_moves_integers(deploy: Deploy) -> None:
    _, files = deploy("mixed", "openvino")
    model = onnx.load(files[2])
    producers = {name: node for node in model.graph.node for name in node.output}
    split = producers[OnnxNetwork(model).nodes["left/conv"].input[0]]
    assert (split.op_type, producers[split.input[0]].op_type) == ("Split", "DequantizeLinear")


class SplitHead(nn.Module):
    """The body reads the head's output in two parts, and the long skip reads all of it."""

    def __init__(self, *, bias: bool) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, 6, 3, padding=1, bias=bias)
        self.left, self.right = networks.conv(3, 3), networks.conv(3, 3)
        self.last, self.tail = networks.conv(6, 6), networks.conv(6, 12)

    def forward(self, image: Tensor) -> Tensor:
        first = self.head(image)
        left, right = torch.split(first, 3, 1)
        body = self.last(torch.cat([self.left(left).relu(), self.right(right)], 1))
        return nn.functional.pixel_shuffle(self.tail(body + first), 2)


@pytest.mark.parametrize("bias", [True, False])
def test_the_long_skip_is_written_as_floats(bias: bool, tmp_path: Path) -> None:  # noqa: FBT001
    torch.manual_seed(0)
    run = quantize("openvino-w8a8-fast", model=SplitHead(bias=bias).eval(), out=tmp_path / "run", device="cpu")
    model = onnx.load(run.folder / "model_openvino.onnx")
    producers = {name: node.op_type for node in model.graph.node for name in node.output}
    assert [producers[value] for value in OnnxNetwork(model).nodes["/add"].input] == ["Conv", "Conv"]
    assert run.summary["verify"]["psnr"] > 80


class Repeated(nn.Module):
    """A skip with the image's colors repeated, as nearest neighbors before a pixel shuffle."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.tail = networks.conv(3, 6), networks.conv(6, 12)

    def forward(self, image: Tensor) -> Tensor:
        deep = torch.tanh(self.tail(self.head(image).relu()))
        return nn.functional.pixel_shuffle(deep + image.repeat_interleave(4, dim=1), 2)


def test_a_repeated_image_leaves_the_head_integers(tmp_path: Path) -> None:
    torch.manual_seed(0)
    run = quantize("openvino-w8a8-fast", model=Repeated().eval(), out=tmp_path / "run", device="cpu")
    assert run.summary["verify"]["convs_int8"] == 2


class Spectral(nn.Module):
    """A spectrum with another size than its image, which OpenVINO reads and does not run."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.tail = networks.conv(3, 6), networks.conv(6, 12)

    def forward(self, image: Tensor) -> Tensor:
        spectrum = torch.fft.rfft2(self.head(image))
        spectrum = torch.complex(spectrum.real.relu(), spectrum.imag)
        return nn.functional.pixel_shuffle(self.tail(torch.fft.irfft2(spectrum, image.shape[2:])), 2)


def test_operations_that_openvino_lacks_are_named(tmp_path: Path) -> None:
    # The processor decides whether it fails at loading or at running.
    with pytest.raises(SrptqError, match=r"OpenVINO does not (load it|run the network: .*; give another target)"):
        quantize("openvino-w8a8-fast", model=Spectral().eval(), out=tmp_path / "run", device="cpu")


@pytest.mark.parametrize("kind", ["edsr", "mixed"])
def test_both_files_give_the_same_output(kind: str, deploy: Deploy) -> None:
    _, (xml, weights, qdq) = deploy(kind, "openvino")
    assert [path.name for path in (xml, weights, qdq)] == [f"model_openvino.{kind}" for kind in ("xml", "bin", "onnx")]
    first, second = TARGET.load(xml), TARGET.load(qdq)
    for size in ((1, 9, 17), (3, 16, 12)):
        image = networks.images(*size).numpy()
        assert np.array_equal(first(image), second(image))


def test_the_metadata_travels_with_the_xml(deploy: Deploy) -> None:
    _, files = deploy("edsr", "openvino")
    model = openvino.Core().read_model(files[0])
    metadata = json.loads(model.get_rt_info(["framework", "srptq"]).astype(str))
    assert metadata == {"scale": 2, "input_range": [0.0, 1.0], "mean": None, "name": "toy"}


def test_the_command_has_a_shape_for_dynamic_files() -> None:
    artifact = Path("run/model_openvino.xml")
    command = TARGET.command(artifact, (1, 1, 320, 512), fixed=False)
    assert "-m model_openvino.xml" in command
    assert '-data_shape "[1,1,320,512]"' in command
    assert "-data_shape" not in TARGET.command(artifact, (1, 3, 8, 8), fixed=True)


def test_another_file_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "model.xml").write_text("<net/>")
    with pytest.raises(SrptqError, match=r"model\.xml: OpenVINO does not load it"):
        TARGET.load(tmp_path / "model.xml")


def test_without_openvino_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    calls: list[Callable[[], Any]] = [TARGET.require, lambda: TARGET.load(tmp_path / "model.xml")]
    for call in calls:
        with pytest.raises(MissingRuntimeError, match=r"pip install 'srptq-plugin\[openvino\]'"):
            call()
