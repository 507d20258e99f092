"""ONNX files as people bring them: their images, inputs, types and names, and refusals."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import NodeProto, TensorProto, helper, numpy_helper
from torch import Tensor
from torch.nn import functional

from srptq_plugin.errors import SrptqError
from srptq_plugin.models.loading import load_model

KERNEL = torch.randn(12, 3, 3, 3, generator=torch.Generator().manual_seed(0))
CONV = helper.make_node("Conv", ["x", "w"], ["deep"], name="conv", pads=[1] * 4)
SHUFFLE = helper.make_node("DepthToSpace", ["deep"], ["y"], name="shuffle", blocksize=2, mode="CRD")
SIDES = ("n", 3, "h", "w")


def save(
    path: Path,
    nodes: Sequence[NodeProto] = (CONV, SHUFFLE),
    weights: Mapping[str, Any] | None = None,
    *,
    inputs: Mapping[str, Sequence[Any]] | None = None,
    outputs: Mapping[str, Sequence[Any]] | None = None,
    kind: int = TensorProto.FLOAT,
) -> Path:
    """Write a graph, by default of a convolution and a pixel shuffle by 2."""
    ends = [
        [helper.make_tensor_value_info(name, kind, sides) for name, sides in values.items()]
        for values in (inputs or {"x": SIDES}, outputs or {"y": ("n", 3, "H", "W")})
    ]
    arrays = {"w": KERNEL.numpy()} if weights is None else weights
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in arrays.items()]
    graph = helper.make_graph(list(nodes), "g", ends[0], ends[1], tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]), path)
    return path


def plain(image: Tensor) -> Tensor:
    return functional.pixel_shuffle(functional.conv2d(image, KERNEL, padding=1), 2)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "net.onnx"


def images(*sides: int) -> Tensor:
    return torch.rand(sides, generator=torch.Generator().manual_seed(1))


def test_a_file_alone_is_a_network(file: Path) -> None:
    loaded = load_model(str(save(file)))
    assert loaded.record.name == "net.onnx"
    assert (loaded.record.scale, loaded.record.input_range, loaded.only_size) == (2, (0.0, 1.0), None)
    assert torch.equal(loaded.module(images(2, 3, 7, 9)), plain(images(2, 3, 7, 9)))


@pytest.mark.parametrize("given", [None, (0.0, 255.0)])
def test_what_was_understood_is_logged(
    file: Path, given: tuple[float, float] | None, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="srptq_plugin.models.loading")
    load_model(save(file), input_range=given)
    understood = "network net.onnx (an ONNX file): upscales by 2, reads RGB in"
    ends = "0:255 (as given), any size" if given else "0:1 (assumed; `input_range` gives another), any size"
    assert f"{understood} {ends}" in caplog.text


@pytest.mark.parametrize("kind", [TensorProto.UINT8, TensorProto.FLOAT])
def test_an_image_of_integers_has_levels(file: Path, kind: int) -> None:
    nodes = [helper.make_node("Cast", ["x"], ["f"], to=TensorProto.FLOAT)]
    nodes += [helper.make_node("Conv", ["f", "w"], ["deep"], pads=[1] * 4), SHUFFLE]
    record = load_model(save(file, nodes, kind=kind)).record
    assert record.input_range == ((0.0, 255.0) if kind == TensorProto.UINT8 else (0.0, 1.0))


def test_weights_in_half_precision_become_floats(file: Path) -> None:
    half = KERNEL.half()
    nodes = [helper.make_node("Cast", ["x"], ["f"], to=TensorProto.FLOAT16)]
    nodes += [helper.make_node("Conv", ["f", "w"], ["deep"], pads=[1] * 4), SHUFFLE]
    module = load_model(save(file, nodes, {"w": half.numpy()})).module
    expected = functional.pixel_shuffle(functional.conv2d(images(1, 3, 7, 9), half.float(), padding=1), 2)
    assert torch.equal(module(images(1, 3, 7, 9)), expected)


def test_images_with_channels_last_are_turned(file: Path) -> None:
    turn = [helper.make_node("Transpose", ["x"], ["first"], perm=[0, 3, 1, 2])]
    turn += [helper.make_node("Conv", ["first", "w"], ["deep"], pads=[1] * 4)]
    turn += [helper.make_node("DepthToSpace", ["deep"], ["large"], blocksize=2, mode="CRD")]
    turn += [helper.make_node("Transpose", ["large"], ["y"], perm=[0, 2, 3, 1])]
    save(file, turn, inputs={"x": ("n", "h", "w", 3)}, outputs={"y": ("n", "H", "W", 3)})
    assert torch.equal(load_model(file).module(images(1, 3, 7, 9)), plain(images(1, 3, 7, 9)))


def test_a_declared_size_is_kept_where_needed(file: Path) -> None:
    added = helper.make_node("Add", ["deep", "map"], ["sum"])
    shuffle = helper.make_node("DepthToSpace", ["sum"], ["y"], blocksize=2, mode="CRD")
    weights = {"w": KERNEL.numpy(), "map": images(1, 12, 20, 24).numpy()}
    save(file, [CONV, added, shuffle], weights, inputs={"x": (1, 3, 20, 24)})
    assert load_model(file).only_size == (1, 3, 20, 24)
    assert load_model(save(file, inputs={"x": (1, 3, 20, 24)})).only_size is None


def test_a_second_input_is_given_by_arguments(file: Path) -> None:
    product = helper.make_node("Mul", ["x", "strength"], ["s"])
    conv = helper.make_node("Conv", ["s", "w"], ["deep"], pads=[1] * 4)
    save(file, [product, conv, SHUFFLE], inputs={"strength": (1, 1, 1, 1), "x": SIDES})
    module = load_model(file, args={"strength": 0.5}).module
    torch.testing.assert_close(module(images(1, 3, 7, 9)), plain(0.5 * images(1, 3, 7, 9)))
    with pytest.raises(SrptqError, match=r"net.onnx: the graph reads strength besides the image; fix them"):
        load_model(file)
    with pytest.raises(SrptqError, match="`force` is no input of the graph; besides the image it has strength"):
        load_model(file, args={"force": 1})


def test_one_of_several_outputs_is_chosen(file: Path) -> None:
    save(file, outputs={"deep": ("n", 12, "h", "w"), "y": ("n", 3, "H", "W")})
    assert load_model(file).record.scale == 2
    with pytest.raises(SrptqError, match="an output must be one image"):
        load_model(file, output="deep")


def test_tied_weights_stay_one_parameter(file: Path) -> None:
    weight = images(3, 3, 3, 3).numpy()
    nodes = [helper.make_node("Conv", [x, "body.conv.weight"], [y], name=y, pads=[1] * 4) for x, y in ("xa", "ay")]
    module = load_model(save(file, nodes, {"body.conv.weight": weight})).module
    assert [name for name, _ in module.named_parameters()] == ["body.conv.weight"]


def test_layers_of_one_module_have_own_names(file: Path) -> None:
    weights = {name: images(3, 3, 3, 3).numpy() for name in ("onnx::1", "onnx::2")}
    nodes = [
        helper.make_node("Conv", ["x", "onnx::1"], ["a"], name="/body/Conv", pads=[1] * 4),
        helper.make_node("Conv", ["a", "onnx::2"], ["b"], name="/body/Conv_1", pads=[1] * 4),
        helper.make_node("Add", ["b", "x"], ["y"], name="/body/Add"),
    ]
    module = load_model(save(file, nodes, weights)).module
    assert [name for name, _ in module.named_parameters()] == ["body.conv.weight", "body.conv_1.weight"]


def test_names_that_modules_cannot_have_are_changed(file: Path) -> None:
    weights = {"float.weight": images(3, 3, 1, 1).numpy(), "type": images(3, 1, 1).numpy()}
    nodes = [helper.make_node("Conv", ["x", "float.weight"], ["a"]), helper.make_node("Mul", ["a", "type"], ["y"])]
    names = [name for name, _ in load_model(save(file, nodes, weights)).module.named_parameters()]
    assert sorted(names) == ["float_.weight", "type_"]


def test_functions_of_a_file_are_opened(file: Path) -> None:
    twice = helper.make_function("own", "Twice", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])], [])
    twice.opset_import.append(helper.make_opsetid("", 20))
    model = onnx.load(save(file, [helper.make_node("Twice", ["x"], ["y"], domain="own")], {}))
    model.functions.append(twice)
    model.opset_import.append(helper.make_opsetid("own", 1))
    onnx.save(model, file)
    assert torch.equal(load_model(file).module(images(1, 3, 7, 9)), 2 * images(1, 3, 7, 9))


REFUSED = {
    "quantized": ([helper.make_node("QuantizeLinear", ["x", "w"], ["y"])], "quantized already .QuantizeLinear.; give"),
    "a loop": ([helper.make_node("NonZero", ["x"], ["y"])], r"not read: NonZero .1.; export without"),
    "another domain": (
        [helper.make_node("Attention", ["x"], ["y"], domain="com.microsoft")],
        r"not read: com.microsoft.Attention .1.",
    ),
    "indices of the image": ([helper.make_node("Gather", ["w", "x"], ["y"])], "indices that depend on the image"),
    "a huge constant": (
        [
            helper.make_node("Constant", [], ["shape"], value_ints=[2**20, 2**20]),
            helper.make_node("ConstantOfShape", ["shape"], ["zeros"], name="zeros"),
            helper.make_node("Add", ["x", "zeros"], ["y"]),
        ],
        r"ConstantOfShape .zeros. makes a constant",
    ),
    "a missing value": ([helper.make_node("Relu", ["nothing"], ["y"])], "net.onnx"),
    "no inputs": ([helper.make_node("Relu", [], ["y"])], "net.onnx"),
    "wrong attributes": ([helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1])], "net.onnx"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_read_is_named(kind: str, file: Path) -> None:
    nodes, message = REFUSED[kind]
    with pytest.raises(SrptqError, match=message):
        load_model(save(file, nodes))


def test_weights_besides_a_file_are_refused(file: Path) -> None:
    with pytest.raises(SrptqError, match="a file brings its own weights; leave"):
        load_model(save(file), "weights.pth")
