"""Hostile files: decompression bombs, paths to other files, and names with terminal escape codes."""

import struct
import zlib
from collections import OrderedDict
from pathlib import Path

import numpy as np
import onnx
import pytest
from helpers import networks
from helpers.sweeping import Sweep
from onnx import helper, numpy_helper
from torch import nn

from srptq_plugin.pipeline import quantize

ODD = "he\x1b[2Jad conv"


def png(width: int, height: int) -> bytes:
    """Return a PNG file whose header claims this size."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = {b"IHDR": header, b"IDAT": zlib.compress(b"\0" * 1000), b"IEND": b""}
    parts = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks.items()
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize("side", [11_000, 60_000])
def test_images_that_claim_to_be_huge(sweep: Sweep, side: int) -> None:
    (sweep.place / "lr").mkdir()
    (sweep.place / "lr" / "bomb.png").write_bytes(png(side, side))
    assert sweep("quantize", "--images", "lr", "--out", "run", names=["bomb.png"]).code == 2


RECIPES = {
    "laughs": "".join(f"k{n}: &a{n} [{f'*a{n - 1}, ' * 9}]\n" for n in range(1, 20)),
    "a deep list": "a: " + "[" * 50_000,
    "deep mappings": "a: " + "{a: " * 5000 + "1" + "}" * 5000,
    "Python": "a: !!python/object/apply:os.mkdir [marker]",
}


@pytest.mark.parametrize("kind", RECIPES)
def test_recipes_that_explode(sweep: Sweep, kind: str) -> None:
    (sweep.place / "bomb.yaml").write_text(RECIPES[kind])
    assert sweep("quantize", "--recipe", "bomb.yaml", names=["bomb.yaml"]).code == 2


def model(weight: onnx.TensorProto, name: str = "conv") -> onnx.ModelProto:
    inputs, outputs = (helper.make_tensor_value_info(name, 1, [1, size, 4, 4]) for name, size in (("x", 3), ("y", 1)))
    node = helper.make_node("Conv", ["x", "w"], ["y"], name=name)
    return helper.make_model(helper.make_graph([node], "g", [inputs], [outputs], [weight]))


@pytest.mark.parametrize("location", ["../secret", "/etc/hostname", "link", "../inside/../secret"])
def test_onnx_files_that_point_to_other_files(sweep: Sweep, location: str) -> None:
    (sweep.place / "secret").write_bytes(bytes(12))
    inside = sweep.place / "inside"
    inside.mkdir()
    (inside / "link").symlink_to("../secret")
    weight = numpy_helper.from_array(np.ones((1, 3, 1, 1), np.float32), "w")
    weight.ClearField("raw_data")
    weight.data_location = onnx.TensorProto.EXTERNAL
    weight.external_data.add(key="location", value=location)
    (inside / "model.onnx").write_bytes(model(weight).SerializeToString())
    assert sweep("lint", "inside/model.onnx", "--target", "tensorrt", names=["inside/model.onnx"]).code == 2


def test_escape_codes_in_onnx_names(sweep: Sweep) -> None:
    weight = numpy_helper.from_array(np.ones((1, 3, 1, 1), np.float32), "w")
    (sweep.place / "model.onnx").write_bytes(model(weight, ODD).SerializeToString())
    assert r"he\x1b[2Jad" in sweep("lint", "model.onnx", "--target", "tensorrt").out


def test_escape_codes_in_layer_names(sweep: Sweep) -> None:
    first, last = networks.conv(3, 6), networks.conv(6, 12)
    network = nn.Sequential(OrderedDict([("he\x1bad conv", first), ("tail", last), ("shuffle", nn.PixelShuffle(2))]))
    recipe = networks.recipe(8, "paper", calibration={"patches": 2, "size": 12})
    quantize(recipe, model=network, out=sweep.place / "run", device="cpu")
    for command in ("verify", "cost"):
        assert sweep(command, "run").code == 0


@pytest.mark.parametrize("name", ["\x1b[2J.yaml", "a\nb.yaml", "\x9b2J.yaml"])
def test_escape_codes_in_file_names(sweep: Sweep, name: str) -> None:
    Path(name).write_text("nothing: here")
    assert sweep("quantize", "--recipe", name).code == 2
