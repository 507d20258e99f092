"""What MQBench gets wrong, found by probing, and right while we are active."""

from typing import Any
from unittest.mock import Mock

import numpy as np
import onnx
import pytest
import torch
from mqbench import convert_deploy  # pyright: ignore[reportAttributeAccessIssue]
from mqbench import prepare_by_platform as platform  # pyright: ignore[reportAttributeAccessIssue]
from mqbench.deploy import deploy_linear  # pyright: ignore[reportMissingImports]
from mqbench.fake_quantize import PACTFakeQuantize  # pyright: ignore[reportMissingImports]
from mqbench.utils.registry import BACKEND_DEPLOY_FUNCTION  # pyright: ignore[reportMissingImports]
from mqbench.utils.state import enable_calibration, enable_quantization  # pyright: ignore[reportMissingImports]

import srptq_plugin
from srptq_adapters.mqbench.grids import observer_arguments
from srptq_adapters.mqbench.repairs import repairs
from srptq_adapters.mqbench.torch_compat import moved
from srptq_plugin.quantization.grid import Bounds, IntGrid, project

pytestmark = pytest.mark.usefixtures("active")

EXPORT = "TorchScript export"
"""Mended inside `convert_deploy` only; torch's own default stays."""
NODE = onnx.helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["y"])
LONG_TAIL = torch.cat([torch.linspace(-1, 2, 5000), torch.tensor([-40.0, 70.0])])


def parsed(scale: list[float], zero_point: list[int]) -> Any:
    known = {"scale": np.array(scale, np.float32), "zero": np.array(zero_point, np.uint8)}
    return deploy_linear.LinearQuantizer_process().parse_qparams(NODE, known)


def test_what_is_mended_no_longer_probes_as_broken() -> None:
    assert not [each.name for each in repairs() if each.broken is not None and each.needed and each.name != EXPORT]


def test_zero_points_do_not_wrap() -> None:
    name, scale, zero_point = parsed([0.5], [3])
    assert name == "x"
    assert np.shape(scale) == np.shape(zero_point) == ()
    assert (0 - zero_point) * scale == -1.5


def test_zero_points_of_channels_do_not_wrap_either() -> None:
    _, scale, zero_point = parsed([0.5, 0.25], [3, 4])
    assert ((0 - zero_point) * scale).tolist() == [-1.5, -1.0]


def test_an_output_has_a_reader_that_reads_nothing_more() -> None:
    output = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    graph = onnx.helper.make_graph([NODE], "probe", [], [output])
    producers, readers = deploy_linear.update_inp2node_out2node(graph)
    assert list(producers) == ["y"]
    assert [each[0].op_type for each in readers["y"]] == [""]
    assert [(each[0].op_type, each[1]) for each in readers["x"]] == [("QuantizeLinear", 0)]
    assert len(graph.node) == 1


def test_exporting_is_by_torchscript_inside_mqbench_only(monkeypatch: pytest.MonkeyPatch) -> None:
    export = Mock()
    monkeypatch.setattr(torch.onnx, "export", export)
    convert_deploy.torch.onnx.export("model", (), "path", opset_version=13)
    torch.onnx.export(torch.nn.Identity(), (), "path")
    scoped = {"dynamo": False} if moved() else {}
    assert [each.kwargs for each in export.call_args_list] == [scoped | {"opset_version": 13}, {}]
    assert convert_deploy.torch.no_grad is torch.no_grad


@pytest.mark.parametrize("backend", ["Academic", "Tensorrt", "SNPE", "OPENVINO", "QDQ", "PPLCUDA"])
def test_the_steps_of_mqbench_stay_in_their_order(backend: str) -> None:
    functions = BACKEND_DEPLOY_FUNCTION[platform.BackendType[backend]]
    stock = [each for each in functions if each.__module__.startswith("mqbench")]
    assert [each for each in functions if each not in stock]
    srptq_plugin.deactivate("mqbench")
    assert functions == stock


@pytest.mark.parametrize(
    "grid", [IntGrid(4), IntGrid(8, signed=True, symmetric=True, narrow_range=True)], ids=["affine", "symmetric"]
)
def test_pact_starts_from_the_bounds_of_dbdc(grid: IntGrid) -> None:
    pact = PACTFakeQuantize(platform.ObserverDict["dbdc"], **observer_arguments(grid), ratio=0.01)
    enable_calibration(pact)
    assert torch.equal(pact(LONG_TAIL), LONG_TAIL)
    seen = pact.activation_post_process
    wanted = project(Bounds.of(seen.min_val, seen.max_val), grid)
    assert pact.alpha.item() == pytest.approx(wanted.bounds.upper.item())
    assert 1 < pact.alpha.item() < 4
    if not grid.symmetric:
        assert pact.n_alpha.item() == pytest.approx(wanted.bounds.lower.item())
    enable_quantization(pact)
    assert torch.equal(pact.scale, wanted.scale.reshape(-1))
    assert (pact(LONG_TAIL) - LONG_TAIL)[:-2].abs().max() <= 1.01 * wanted.scale


def test_pact_with_an_observer_of_mqbenchs_is_left_alone() -> None:
    pact = PACTFakeQuantize(platform.ObserverDict["MinMaxObserver"], **observer_arguments(IntGrid(8)))
    enable_calibration(pact)
    pact(LONG_TAIL)
    assert pact.alpha.item() == 6.0
