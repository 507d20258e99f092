"""Qualcomm's encodings: three versions, each read back to the same numbers."""

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


def same(first: QParams, second: QParams) -> bool:
    numbers = torch.equal(first.scale, second.scale) and torch.equal(first.zero_point, second.zero_point)
    return numbers and first.grid == second.grid


@pytest.mark.parametrize("version", VERSIONS)
@given(ends=st.tuples(ENDS, ENDS).map(sorted), bits=st.sampled_from([8, 16]), narrow_range=st.sampled_from([4, 8]))
def test_every_version_reads_back_bit_for_bit(
    version: Version, ends: list[float], bits: int, narrow_range: int, tmp_path_factory: Any
) -> None:
    path = tmp_path_factory.getbasetemp() / f"{version}.encodings"
    bounds, spread = Bounds.of(*ends), torch.linspace(1, 2, 3)
    grid = IntGrid(narrow_range, signed=True, symmetric=True, channel_axis=0)
    weight = project(Bounds.of(bounds.lower * spread, bounds.upper * spread), grid)
    written = Encodings({"image": project(bounds, IntGrid(bits))}, {"weight": weight})
    written.write(path, version)
    back = read(path, ["weight"])
    assert same(back.activations["image"], written.activations["image"])
    assert same(back.parameters["weight"], written.parameters["weight"])


def test_the_fields_of_the_first_version() -> None:
    image = project(Bounds.of(-1.0, 1.55), ACTIVATION)
    weight = project(Bounds.of(-1.0, 0.5), WEIGHT)
    record = Encodings({"image": image}, {"weight": weight}).record("0.6.1")
    (activation,), (parameter,) = record["activation_encodings"]["image"], record["param_encodings"]["weight"]
    assert (activation["bitwidth"], activation["dtype"]) == (8, "int")
    assert (activation["is_symmetric"], activation["offset"]) == ("False", -100)
    assert (activation["min"], activation["max"]) == pytest.approx((-1.0, 1.55))
    assert (parameter["is_symmetric"], parameter["offset"], parameter["min"]) == ("True", -128, pytest.approx(-1.0))


def test_the_fields_of_the_default_version() -> None:
    weight = project(Bounds.of(-torch.ones(3), torch.ones(3)), IntGrid(4, signed=True, symmetric=True, channel_axis=0))
    (parameter,) = Encodings({}, {"weight": weight}).record()["param_encodings"]
    assert (parameter["name"], parameter["enc_type"], parameter["dtype"]) == ("weight", "PER_CHANNEL", "INT")
    assert (parameter["bw"], parameter["is_sym"], parameter["offset"]) == (4, True, [-8, -8, -8])


def test_the_last_version_has_fields_of_quantize_linear() -> None:
    image = project(Bounds.of(-1.0, 1.55), IntGrid(16))
    weight = project(Bounds.of(-torch.ones(2), torch.ones(2)), IntGrid(8, signed=True, symmetric=True, channel_axis=0))
    activation, parameter = Encodings({"image": image}, {"weight": weight}).record("2.0.0")["encodings"]
    assert (activation["output_dtype"], activation["y_zero_point"]) == ("uint16", int(image.zero_point))
    assert "axis" not in activation
    assert (parameter["output_dtype"], parameter["axis"]) == ("int8", 0)
    assert "y_zero_point" not in parameter


@pytest.mark.parametrize("text", ["", "{}", '{"version": "3.0.0"}', '{"version": "1.0.0"}', "[1]"])
def test_another_file_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "other.encodings"
    path.write_text(text)
    with pytest.raises(SrptqError, match=r"other\.encodings: not an encodings file of version 1\.0\.0, 0\.6"):
        read(path, [])
