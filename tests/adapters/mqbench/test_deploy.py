"""Files that `convert_deploy` writes while we are active, run by runtimes."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

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
    convert,
    floats,
    out_of_range,
    quantized,
    schemes,
    written,
)
from helpers.runtimes import decibels, in_onnxruntime, in_openvino

import srptq_plugin

pytestmark = pytest.mark.usefixtures("real")

CASES = [(backend, bits, per) for backend in SYMMETRIC for bits in (3, 4, 8) for per in ("tensor", "channel")]
Deploy = Callable[..., Deployed]


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


def weight_names(path: Path) -> set[str]:
    return {tensor.name for tensor in onnx.load(path).graph.initializer if len(tensor.dims) == 4}


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
