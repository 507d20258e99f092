"""Operations between Q/DQ pairs as ONNX Runtime has them in integers."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx import numpy_helper

from srptq_adapters.targets.onnxruntime import TARGET
from srptq_plugin.deploy.quant_table import QuantTable
from srptq_plugin.plugins.protocols import Runtime

runtime = pytest.importorskip("onnxruntime")

Deploy = Callable[..., tuple[QuantTable, list[Path]]]
ErrorShare = Callable[[str, QuantTable, Runtime], float]
FLOAT = {"Conv", "Add", "Mul", "Sigmoid", "LeakyRelu", "PRelu", "AveragePool", "Concat"}


def executed(path: Path, folder: Path) -> Counter[str]:
    """Count the operations that ONNX Runtime executes."""
    options = runtime.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    options.log_severity_level = 3
    runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(folder / "optimized.onnx").graph.node)


def test_activations_and_products_run_in_integers(deploy: Deploy, tmp_path: Path) -> None:
    _, files = deploy("activations", "onnxruntime")
    operations = executed(files[0], tmp_path)
    assert operations["QLinearMul"] == 4
    assert operations["QLinearSigmoid"] == operations["QLinearLeakyRelu"] == operations["QLinearAveragePool"] == 1
    assert operations["QLinearAdd"] == 3
    assert operations["QLinearGlobalAveragePool"] == 1
    # A gate of 1 x 1 maps is computed in float, with its sigmoid.
    assert {kind: count for kind, count in operations.items() if kind in FLOAT} == {"Conv": 1}


def test_linear_layers_run_as_integer_convolutions(deploy: Deploy, tmp_path: Path) -> None:
    table, files = deploy("channelslast", "onnxruntime")
    operations = executed(files[0], tmp_path)
    assert operations["QLinearConv"] == len(table.plan.convs) == 5
    assert not {"MatMul", "QLinearMatMul", "Gemm"} & set(operations)


def test_attention_runs_in_integers_as_simulated(deploy: Deploy, error_share: ErrorShare, tmp_path: Path) -> None:
    table, files = deploy("tokens", "onnxruntime")
    operations = executed(files[0], tmp_path)
    assert (operations["QLinearConv"], operations["QLinearMatMul"], operations["Softmax"]) == (4, 2, 1)
    assert not {"MatMul", "Einsum", "QLinearSoftmax", "Conv"} & set(operations)
    assert error_share("tokens", table, TARGET.load(files[0])) < 0.2


def test_softmax_reads_floats(deploy: Deploy) -> None:
    # QLinearSoftmax wraps around where its output is beyond the largest integer.
    table, _ = deploy("tokens", "onnxruntime")
    assert "/softmax" not in {edge.consumer for site in table.plan.sites for edge in site.consumers}


def test_numbers_are_exact_in_integers(deploy: Deploy) -> None:
    _, files = deploy("activations", "onnxruntime")
    graph = onnx.load(files[0]).graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    factors = [node for node in graph.node if node.output[0].endswith("_factor")]
    integer, scale, zero = ([constants[node.input[n]] for node in factors] for n in range(3))
    values = [float((int(i) - int(z)) * s) for i, s, z in zip(integer, scale, zero, strict=True)]
    assert sorted(values) == pytest.approx([-0.3, 0.2], rel=1e-7)
