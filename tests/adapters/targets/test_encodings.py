"""Qualcomm's encodings: three versions of one thing, each read back to the same numbers."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from srptq_adapters.targets.encodings import VERSIONS, Encodings, Version, read
from srptq_plugin.errors import SrptqError
from srptq_plugin.quantization.grid import Bounds, IntGrid, QParams, project

ACTIVATION, WEIGHT = IntGrid(8), IntGrid(8, signed=True, symmetric=True)
ENDS = st.floats(-50, 50, width=32)


def same(one: QParams, other: QParams) -> bool:
    numbers = torch.equal(one.scale, other.scale) and torch.equal(one.zero_point, other.zero_point)
    return numbers and one.grid == other.grid


@pytest.mark.parametrize("version", VERSIONS)
@given(ends=st.tuples(ENDS, ENDS).map(sorted), bits=st.sampled_from([8, 16]), narrow_range=st.sampled_from([4, 8]))
def test_every_version_comes_back_bit_for_bit(
    version: Version, ends: list[float], bits: int, narrow_range: int, tmp_path_factory: Any
) -> None:
    path = tmp_path_factory.getbasetemp() / f"{version}.encodings"
    bounds, spread = Bounds.of(*ends), torch.linspace(1, 2, 3)
    grid = IntGrid(narrow_range, signed=True, symmetric=True, channel_axis=0)
    weight = project(Bounds.of(bounds.lower * spread, bounds.upper * spread), grid)
    found = Encodings({"image": project(bounds, IntGrid(bits))}, {"weight": weight})
    found.write(path, version)
    back = read(path, ["weight"])
    assert same(back.activations["image"], found.activations["image"])
    assert same(back.parameters["weight"], found.parameters["weight"])


def test_the_fields_of_the_first_version() -> None:
    image = project(Bounds.of(-1.0, 1.55), ACTIVATION)
    weight = project(Bounds.of(-1.0, 0.5), WEIGHT)
    record = Encodings({"image": image}, {"weight": weight}).record("0.6.1")
    (seen,), (kept,) = record["activation_encodings"]["image"], record["param_encodings"]["weight"]
    assert (seen["bitwidth"], seen["dtype"], seen["is_symmetric"], seen["offset"]) == (8, "int", "False", -100)
    assert (seen["min"], seen["max"]) == pytest.approx((-1.0, 1.55))
    assert (kept["is_symmetric"], kept["offset"], kept["min"]) == ("True", -128, pytest.approx(-1.0))


def test_the_fields_of_the_default_version() -> None:
    weight = project(Bounds.of(-torch.ones(3), torch.ones(3)), IntGrid(4, signed=True, symmetric=True, channel_axis=0))
    (kept,) = Encodings({}, {"weight": weight}).record()["param_encodings"]
    assert (kept["name"], kept["enc_type"], kept["dtype"]) == ("weight", "PER_CHANNEL", "INT")
    assert (kept["bw"], kept["is_sym"], kept["offset"]) == (4, True, [-8, -8, -8])


def test_the_last_version_speaks_as_quantize_linear_does() -> None:
    image = project(Bounds.of(-1.0, 1.55), IntGrid(16))
    weight = project(Bounds.of(-torch.ones(2), torch.ones(2)), IntGrid(8, signed=True, symmetric=True, channel_axis=0))
    seen, kept = Encodings({"image": image}, {"weight": weight}).record("2.0.0")["encodings"]
    assert (seen["output_dtype"], "axis" in seen, seen["y_zero_point"]) == ("uint16", False, int(image.zero_point))
    assert (kept["output_dtype"], kept["axis"], "y_zero_point" in kept) == ("int8", 0, False)


@pytest.mark.parametrize("text", ["", "{}", '{"version": "3.0.0"}', '{"version": "1.0.0"}', "[1]"])
def test_another_file_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "other.encodings"
    path.write_text(text)
    with pytest.raises(SrptqError, match=r"other\.encodings: not an encodings file of version 1\.0\.0, 0\.6"):
        read(path, [])
