"""ncnn runs its files in integers, as simulated."""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from helpers import networks
from torch import nn

from srptq_plugin.deploy.onnx_export import export_float
from srptq_plugin.deploy.quant_table import QuantTable
from srptq_plugin.errors import MissingRuntimeError, SrptqError
from srptq_plugin.graph.export import export_network, graph_of
from srptq_plugin.graph.network import Network
from srptq_plugin.planning.plan import Edge
from srptq_plugin.planning.planner import make_plan
from srptq_plugin.planning.prepared_graph import PreparedGraph
from srptq_plugin.plugins.bound_recipe import BoundRecipe
from srptq_plugin.plugins.protocols import Runtime
from srptq_plugin.plugins.registry import Registry

pytest.importorskip("ncnn")

from srptq_adapters.targets.ncnn import TARGET

Deploy = Callable[..., tuple[QuantTable, list[Path]]]
ErrorShare = Callable[[str, QuantTable, Runtime], float]
KINDS = [*networks.NETWORKS, "normed", "channelslast", "esa", "rdn", "rrdb", "fsrcnn", "lapsrn"]
MOST = 0.1
"""A share of the error of quantization. A few values on a tie give less."""


@pytest.mark.parametrize("kind", KINDS)
def test_every_convolution_runs_in_integers_as_simulated(kind: str, deploy: Deploy, error_share: ErrorShare) -> None:
    table, files = deploy(kind, "ncnn")
    net = TARGET.load(files[0])
    assert net.integer_convs() == len(table.plan.convs)
    assert error_share(kind, table, net) < MOST


@pytest.mark.parametrize("kind", KINDS)
def test_the_float_network_runs_as_in_torch(kind: str, float_file: Callable[[str], Path]) -> None:
    net, plain = TARGET.load(float_file(kind)), PreparedGraph.float_only(networks.graph(kind))
    for size in ((1, 12, 14), (2, 9, 23)):
        image = networks.images(*size)
        with torch.no_grad():
            expected = plain(image).numpy()
        np.testing.assert_allclose(net(image.numpy()), expected, atol=2e-5 * max(1, np.abs(expected).max()))
    assert net.integer_convs() == 0


class Blocks(nn.Module):
    """Convolutions in groups, with a multiplier of channels, and between movements of pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, 6, 3, padding=1)
        self.groups = nn.Conv2d(6, 8, 3, padding=1, groups=2)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.multiplied = nn.Conv2d(8, 16, 1, groups=8)
        self.tail = nn.Conv2d(16, 12, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.groups(torch.relu(self.head(x)))
        x = self.multiplied(nn.functional.silu(self.depthwise(x)))
        return nn.functional.pixel_shuffle(self.tail(x), 2)


def deployed(module: nn.Module, folder: Path) -> tuple[QuantTable, PreparedGraph, list[Path]]:
    """Return a network's table, its simulation, and ncnn's files."""
    program = export_network(module.eval())
    bound = BoundRecipe.of(networks.recipe(8, "ncnn"), Registry())
    plan = make_plan(Network(graph_of(program)), bound.rules, bound.recipe, networks.UNIT, bound.qconfigs)
    prepared = PreparedGraph.from_plan(graph_of(program), plan)
    prepared.observe([networks.images()])
    table = QuantTable.of(prepared)
    export_float(program, folder / "float.onnx", networks.METADATA)
    return table, table.simulate(graph_of(program)), list(TARGET.write(folder / "float.onnx", table, folder))


def test_convolutions_in_groups_keep_the_scales_of_channels(tmp_path: Path) -> None:
    torch.manual_seed(3)
    table, simulation, files = deployed(Blocks(), tmp_path)
    image = networks.images(2, 9, 23)
    with torch.no_grad():
        expected = simulation(image).numpy()
    net = TARGET.load(files[0])
    measured = net(image.numpy())
    assert net.integer_convs() == len(table.plan.convs) == 5
    # A depthwise convolution of eight channels is divided by an approximate reciprocal.
    assert np.sqrt(np.square(measured - expected).mean()) < 2e-3 * np.ptp(expected)


def test_the_table_holds_the_scales_of_the_plan(deploy: Deploy) -> None:
    table, files = deploy("edsr", "ncnn")
    lines = [line.split() for line in files[2].read_text().splitlines()]
    half = len(lines) // 2
    assert [name.removesuffix("_param_0") for name, *_ in lines[:half]] == [name for name, *_ in lines[half:]]
    sites = {(conv, index): table.plan.by_edge[Edge(conv, index)].name for conv in table.plan.convs for index in (0, 1)}
    for index, part in ((1, lines[:half]), (0, lines[half:])):
        scales = [table.qparams[sites[conv, index]].scale.double().reshape(-1) for conv in table.plan.convs]
        written = [1 / np.array(factors, np.float64) for _, *factors in part]
        assert len(written) == len(scales)
        assert all(np.allclose(got, scale.numpy(), rtol=1e-6) for got, scale in zip(written, scales, strict=True))


def test_blobs_have_the_names_of_known_programs(deploy: Deploy) -> None:
    _, files = deploy("edsr", "ncnn")
    layers = [line.split() for line in files[0].read_text().splitlines()[2:]]
    assert (layers[0][0], layers[0][-1], layers[-1][5]) == ("Input", "data", "output")
    assert [path.name for path in files] == ["model_ncnn.param", "model_ncnn.bin", "model_ncnn.table"]


def test_activations_and_rounding_are_part_of_convolutions(deploy: Deploy) -> None:
    _, files = deploy("edsr", "ncnn")
    text = files[0].read_text()
    assert "ReLU" not in text
    assert (text.count("8=102"), text.count("8=2 ")) == (2, 6)


def test_a_convolution_left_float_is_not_counted(deploy: Deploy) -> None:
    table, files = deploy("edsr", "ncnn", overrides=[{"sites": "tail", "quantize": False}])
    assert "tail/conv" not in table.plan.convs
    assert TARGET.load(files[0]).integer_convs() == len(table.plan.convs) == 7


def test_integer_weights_of_float_inputs_are_refused(
    deploy: Deploy, float_file: Callable[[str], Path], tmp_path: Path
) -> None:
    table, _ = deploy("edsr", "ncnn")
    weights_only = replace(table.plan, sites=table.plan.weights)
    with pytest.raises(SrptqError, match="no integer weights with float inputs"):
        TARGET.write(float_file("edsr"), replace(table, plan=weights_only), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_tuned_bias_replaces_the_float_one(deploy: Deploy, float_file: Callable[[str], Path], tmp_path: Path) -> None:
    table, files = deploy("edsr", "ncnn")
    moved = replace(table, biases={"tail/conv": torch.full((3,), 0.5)})
    image = networks.images(1).numpy()
    shifted = TARGET.load(TARGET.write(float_file("edsr"), moved, tmp_path)[0])(image)
    with_own = onnx.load(float_file("edsr"))
    bias = next(tensor for tensor in with_own.graph.initializer if tensor.name == "tail.bias")
    own = np.frombuffer(bias.raw_data, np.float32)
    expected = TARGET.load(files[0])(image) + (0.5 - own)[:, None, None]
    np.testing.assert_allclose(shifted, expected, atol=1e-5)


def test_a_network_without_a_translation_is_refused(float_file: Callable[[str], Path]) -> None:
    with pytest.raises(SrptqError, match="ncnn does not compute Div with the image's size"):
        TARGET.load(float_file("tokens"))


def test_a_file_without_its_weights_is_refused(deploy: Deploy, tmp_path: Path) -> None:
    _, files = deploy("edsr", "ncnn")
    alone = tmp_path / files[0].name
    alone.write_bytes(files[0].read_bytes())
    with pytest.raises(SrptqError, match=r"ncnn does not load it with model_ncnn\.bin"):
        TARGET.load(alone)


def test_writing_needs_no_runtime(
    float_file: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = QuantTable.of(networks.calibrated("edsr", 8, "ncnn"))
    monkeypatch.setitem(sys.modules, "ncnn", None)
    TARGET.require()
    files = TARGET.write(float_file("edsr"), table, tmp_path)
    with pytest.raises(MissingRuntimeError, match=r"pip install 'srptq-plugin\[ncnn\]'"):
        TARGET.load(files[0])
