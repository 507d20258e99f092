"""ncnn computes each operation as ONNX Runtime does, on images of odd sizes."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from helpers.onnx_nodes import node, normal, save
from helpers.onnx_operations import CASES, CHANNELS, Case, conv, floats, padded, resized, resized_like, single, whole
from helpers.runtimes import in_onnxruntime
from torch import from_numpy

from srptq_plugin.errors import SrptqError

pytest.importorskip("ncnn")

from srptq_adapters.targets.ncnn import TARGET

SIZES = ((1, CHANNELS, 7, 9), (2, CHANNELS, 16, 13), (1, CHANNELS, 24, 32))


@pytest.mark.parametrize("name", CASES)
def test_an_operation_is_computed_as_in_onnxruntime(name: str, tmp_path: Path) -> None:
    path = save(tmp_path, *CASES[name], CHANNELS)
    net, reference = TARGET.load(path), in_onnxruntime(path)
    for seed, size in enumerate(SIZES):
        image = normal(*size, seed=seed)
        expected = reference(from_numpy(image))
        np.testing.assert_allclose(net(image), expected, rtol=1e-4, atol=2e-5 * max(1, np.abs(expected).max()))


REFUSED: Mapping[str, tuple[Case, str]] = {
    "unknown": (single("Sinh", "x"), "does not compute Sinh"),
    "steps": (
        single("Slice", "x", "a", "b", "c", "d", constants=dict(zip("abcd", map(whole, (0, 9, 2, 2)), strict=True))),
        "Slice with steps",
    ),
    "cube": (single("Pow", "x", "three", constants={"three": floats(3)[0]}), "Pow with an exponent other than 2"),
    "fraction": (resized("linear", 1.5, "half_pixel"), r"Resize by 1.5 x 1.5"),
    "computed scales": (
        ([node("GlobalAveragePool", "x", to="scales"), node("Resize", "x", "", "scales", mode="linear")], {}),
        "Resize with sizes that follow the values of a tensor",
    ),
    "windows": (
        single("Reshape", "x", "size", constants={"size": whole(-1, CHANNELS, 4, 4)}),
        "Reshape of the batch",
    ),
    "slopes of columns": (
        single("PRelu", "x", "slope", constants={"slope": floats(1, 2, 3)}),
        "PRelu with slopes other than one for each channel",
    ),
    "antialias": (resized("linear", 2, "half_pixel", antialias=1), "Resize with antialiasing"),
    "nearest to odd sizes": (resized_like("nearest"), "Resize with coordinates half_pixel"),
    "cubic of another shape": (resized("cubic", 2, "half_pixel", cubic_coeff_a=-0.5), "Resize"),
    "rounded up": (single("MaxPool", "x", kernel_shape=(3, 3), strides=(2, 2), ceil_mode=1), "MaxPool"),
    "wrapped": (padded("wrap", 1, 1, 1, 1), "Pad wrap"),
    "whole numbers": (
        ([node("Cast", "x", to="i", to_=6), node("Cast", "i", to_=1)], {}),
        "Cast to other types than float",
    ),
    "all axes": (single("ReduceMean", "x", keepdims=1), "ReduceMean over the batch"),
    "different ranks": (
        ([node("ReduceMean", "x", "axes", to="m", keepdims=0), node("Add", "x", "m")], {"axes": whole(1)}),
        "Add of tensors of different ranks",
    ),
    "batch": (single("Concat", "x", "x", axis=0), "Concat along the batch"),
    "automatic": (conv(4, auto_pad="SAME_UPPER"), "Conv with automatic padding"),
    "computed weight": (
        ([node("ReduceMean", "x", "axes", to="w", keepdims=1), node("Conv", "x", "w")], {"axes": whole(0)}),
        "along the batch",
    ),
    "size as a number": (
        ([node("Shape", "x", to="s", start=3), node("Cast", "s", to="f"), node("Mul", "x", "f")], {}),
        "Mul with the image's size",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_refusal_names_the_operation_and_its_place(case: str, tmp_path: Path) -> None:
    (nodes, constants), message = REFUSED[case]
    path = save(tmp_path, nodes, constants, CHANNELS)
    with pytest.raises(SrptqError, match=message) as error:
        TARGET.load(path)
    assert str(error.value).startswith("node_")
    assert str(error.value).endswith("replace the operation, or give another target")
