"""LiteRT computes each operation as ONNX Runtime does, in files of any size and of one."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from helpers.onnx_nodes import normal, save
from helpers.onnx_operations import CASES, CHANNELS, single, sliced, split_and_joined, whole
from helpers.runtimes import in_onnxruntime
from torch import from_numpy

from srptq_plugin.errors import SrptqError

pytest.importorskip("ai_edge_litert")

from srptq_adapters.targets.litert import TARGET

SIZES = ((1, CHANNELS, 7, 9), (2, CHANNELS, 16, 13), (1, CHANNELS, 24, 32))
REFUSED = {
    "average pool": "AveragePool rounded up, without what it pads",
    "bicubic with aligned corners": "Resize in mode cubic, other than by a whole factor and half pixels",
    "conv and mish": "Mish",
    "elu": "Elu with another factor than 1",
    "erf": "Erf",
    "negative padding": "Pad in mode constant, or by computed or negative amounts",
    "transposed conv in groups": "ConvTranspose in groups or dilated",
}
ONE_SIZE = {
    "attention", "bicubic", "bilinear", "bilinear to the size of the image", "bilinear with aligned corners", "cropped",
    "nearest to the size of the image", "replicated padding",
    "transposed conv",
}  # fmt: skip
"""What only files of one size hold."""
UNEQUAL = "transposed conv with output padding"
COMPUTED = sorted(CASES.keys() - REFUSED.keys() - {UNEQUAL})


def fix(path: Path, size: tuple[int, int, int, int]) -> Path:
    """Let a file take images of one size."""
    model = onnx.load(path)
    for dimension, length in zip(model.graph.input[0].type.tensor_type.shape.dim, size, strict=True):
        dimension.dim_value = length
    onnx.save(model, path)
    return path


def check(name: str, path: Path, size: tuple[int, int, int, int]) -> None:
    """Compare what an operation gives in both runtimes."""
    image = normal(*size)
    reference = in_onnxruntime(path)
    expected = np.concatenate([reference(from_numpy(part)) for part in np.split(image, len(image))])
    atol = 2e-5 * max(1, np.abs(expected).max())
    np.testing.assert_allclose(TARGET.load(path)(image), expected, rtol=1e-4, atol=atol, err_msg=name)


@pytest.mark.parametrize("name", COMPUTED)
def test_an_operation_is_computed_in_one_size(name: str, tmp_path: Path) -> None:
    path = save(tmp_path, *CASES[name], CHANNELS)
    check(name, fix(path, SIZES[0]), SIZES[0])


@pytest.mark.parametrize("name", sorted(set(COMPUTED) - ONE_SIZE))
@pytest.mark.parametrize("size", SIZES)
def test_an_operation_is_computed_in_any_size(name: str, size: tuple[int, int, int, int], tmp_path: Path) -> None:
    check(name, save(tmp_path, *CASES[name], CHANNELS), size)


@pytest.mark.parametrize("name", REFUSED)
def test_a_refusal_names_the_operation(name: str, tmp_path: Path) -> None:
    path = save(tmp_path, *CASES[name], CHANNELS)
    with pytest.raises(SrptqError, match=f"LiteRT's files do not hold {REFUSED[name]}") as error:
        TARGET.load(path)
    assert "`input_size`" not in str(error.value)
    assert str(error.value).endswith("replace the operation, or give another target")


@pytest.mark.parametrize("name", [*sorted(ONE_SIZE), UNEQUAL])
def test_what_one_size_holds_says_so(name: str, tmp_path: Path) -> None:
    path = save(tmp_path, *CASES[name], CHANNELS)
    with pytest.raises(SrptqError, match="give `input_size` for a file of one size"):
        TARGET.load(path)


def test_uneven_padding_of_outputs_is_refused(tmp_path: Path) -> None:
    path = fix(save(tmp_path, *CASES[UNEQUAL], CHANNELS), SIZES[0])
    with pytest.raises(SrptqError, match="ConvTranspose with more padding of the output than of the input"):
        TARGET.load(path)


COUNTED = {
    "slice": sliced([0], [CHANNELS * CHANNELS], [2]),
    "slice from the end": sliced([-4], [2**62], [3]),
    "split": split_and_joined(2, (32, 32)),
    "resize": single("Resize", "x", "", "", "sizes", constants={"sizes": whole(1, CHANNELS, 128, 128)}, mode="nearest"),
}
"""Lengths that hold for the size at which a file for any size is written, and for no other."""


@pytest.mark.parametrize("name", COUNTED)
def test_lengths_of_one_size_are_refused_in_any(name: str, tmp_path: Path) -> None:
    path = save(tmp_path, *COUNTED[name], CHANNELS)
    with pytest.raises(SrptqError, match="give `input_size` for a file of one size"):
        TARGET.load(path)
