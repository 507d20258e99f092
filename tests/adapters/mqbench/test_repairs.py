"""Defects of MQBench, which probes detect and activating repairs."""

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
"""The repair that works inside `convert_deploy` only. Torch's own default stays, and so the probe."""
NODE = onnx.helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["y"])
LONG_TAIL = torch.cat([torch.linspace(-1, 2, 5000), torch.tensor([-40.0, 70.0])])


def parsed(scale: list[float], zero_point: list[int]) -> Any:
    constants = {"scale": np.array(scale, np.float32), "zero": np.array(zero_point, np.uint8)}
    return deploy_linear.LinearQuantizer_process().parse_qparams(NODE, constants)


def test_probes_pass_after_the_repairs() -> None:
    assert not [
        repair.name for repair in repairs() if repair.broken is not None and repair.needed and repair.name != EXPORT
    ]


def test_zero_points_do_not_wrap() -> None:
    name, scale, zero_point = parsed([0.5], [3])
    assert name == "x"
    assert np.shape(scale) == np.shape(zero_point) == ()
    assert (0 - zero_point) * scale == -1.5


def test_zero_points_of_channels_do_not_wrap() -> None:
    _, scale, zero_point = parsed([0.5, 0.25], [3, 4])
    assert ((0 - zero_point) * scale).tolist() == [-1.5, -1.0]


def test_outputs_have_a_nameless_reader() -> None:
    output = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    graph = onnx.helper.make_graph([NODE], "probe", [], [output])
    producers, readers = deploy_linear.update_inp2node_out2node(graph)
    assert list(producers) == ["y"]
    assert [reader[0].op_type for reader in readers["y"]] == [""]
    assert [(reader[0].op_type, reader[1]) for reader in readers["x"]] == [("QuantizeLinear", 0)]
    assert len(graph.node) == 1


def test_only_mqbench_exports_by_torchscript(monkeypatch: pytest.MonkeyPatch) -> None:
    export = Mock()
    monkeypatch.setattr(torch.onnx, "export", export)
    convert_deploy.torch.onnx.export("model", (), "path", opset_version=13)
    torch.onnx.export(torch.nn.Identity(), (), "path")
    scoped = {"dynamo": False} if moved() else {}
    assert [call.kwargs for call in export.call_args_list] == [scoped | {"opset_version": 13}, {}]
    assert convert_deploy.torch.no_grad is torch.no_grad


@pytest.mark.parametrize("backend", ["Academic", "Tensorrt", "SNPE", "OPENVINO", "QDQ", "PPLCUDA"])
def test_steps_of_mqbench_stay_in_order(backend: str) -> None:
    functions = BACKEND_DEPLOY_FUNCTION[platform.BackendType[backend]]
    stock = [function for function in functions if function.__module__.startswith("mqbench")]
    assert [function for function in functions if function not in stock]
    srptq_plugin.deactivate("mqbench")
    assert functions == stock


@pytest.mark.parametrize(
    "grid", [IntGrid(4), IntGrid(8, signed=True, symmetric=True, narrow_range=True)], ids=["affine", "symmetric"]
)
def test_pact_starts_from_the_bounds_of_dbdc(grid: IntGrid) -> None:
    pact = PACTFakeQuantize(platform.ObserverDict["dbdc"], **observer_arguments(grid), ratio=0.01)
    enable_calibration(pact)
    assert torch.equal(pact(LONG_TAIL), LONG_TAIL)
    observer = pact.activation_post_process
    expected = project(Bounds.of(observer.min_val, observer.max_val), grid)
    assert pact.alpha.item() == pytest.approx(expected.bounds.upper.item())
    assert 1 < pact.alpha.item() < 4
    if not grid.symmetric:
        assert pact.n_alpha.item() == pytest.approx(expected.bounds.lower.item())
    enable_quantization(pact)
    assert torch.equal(pact.scale, expected.scale.reshape(-1))
    assert (pact(LONG_TAIL) - LONG_TAIL)[:-2].abs().max() <= 1.01 * expected.scale


def test_pact_with_stock_observer_stays_unchanged() -> None:
    pact = PACTFakeQuantize(platform.ObserverDict["MinMaxObserver"], **observer_arguments(IntGrid(8)))
    enable_calibration(pact)
    pact(LONG_TAIL)
    assert pact.alpha.item() == 6.0
