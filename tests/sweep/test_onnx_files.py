"""Hostile ONNX files, to check and to quantize: damaged ones, and graphs that no exporter would write."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from helpers import networks
from helpers.mutations import Mutation, binary
from helpers.sweeping import Sweep
from onnx import AttributeProto, ModelProto, TensorProto, helper, numpy_helper

FILE = "model.onnx"
LINT = ("lint", FILE, "--target", "tensorrt")
STOPPED = ("--images", "gone", "--device", "cpu")
"""Options that stop a command after it read the network, as there are no images."""
TARGETS = ("tensorrt", "onnxruntime", "openvino")


def check(sweep: Sweep, content: bytes) -> None:
    (sweep.place / FILE).write_bytes(content)
    for target in TARGETS:
        sweep("lint", FILE, "--target", target, names=[FILE])
    sweep("quantize", "--model", FILE, *STOPPED, names=[FILE, "gone"])


@pytest.fixture(scope="module")
def plain() -> bytes:
    return networks.float_model("mixed").SerializeToString()


@pytest.fixture(scope="module")
def quantized(runs: Callable[[str], Path]) -> bytes:
    return (runs("onnxruntime") / "model_onnxruntime.onnx").read_bytes()


@pytest.mark.parametrize("mutation", binary(12, 30, 12, 12), ids=str)
def test_damaged_float_models(sweep: Sweep, plain: bytes, mutation: Mutation) -> None:
    check(sweep, mutation(plain))


@pytest.mark.parametrize("mutation", binary(4, 24, 12), ids=str)
def test_damaged_quantized_models(sweep: Sweep, quantized: bytes, mutation: Mutation) -> None:
    check(sweep, mutation(quantized))


@pytest.mark.parametrize("place", ["body_conv", "Conv", "kernel"])
def test_names_that_are_not_utf8(sweep: Sweep, place: str) -> None:
    kernel = numpy_helper.from_array(np.zeros((1, 1, 1, 1), np.float32), "kernel")
    shape = [1, 1, 4, 4]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", "y")]
    conv = helper.make_node("Conv", ["x", "kernel"], ["y"], name="body_conv")
    content = helper.make_model(helper.make_graph([conv], "g", ends[:1], ends[1:], [kernel])).SerializeToString()
    check(sweep, content.replace(place.encode(), b"\xff" + place.encode()[1:]))


def node(kind: str, inputs: str = "", outputs: str = "y", **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(kind, inputs.split(), outputs.split(), **attributes)


def initializer(name: str, *values: float, kind: type[np.generic] = np.float32) -> TensorProto:
    return numpy_helper.from_array(np.array(values, kind), name)


def model(*nodes: onnx.NodeProto, initializers: tuple[TensorProto, ...] = ()) -> ModelProto:
    """Return a model without the checks that `onnx.helper` does."""
    proto = ModelProto(ir_version=10)
    proto.opset_import.add(version=20)
    proto.graph.node.extend(nodes)
    proto.graph.initializer.extend(initializers)
    return proto


def external(location: str, **more: str) -> TensorProto:
    """Return an initializer whose values are in another file."""
    tensor = TensorProto(name="s", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, **more}.items():
        tensor.external_data.add(key=key, value=value)
    return tensor


def raw(dims: tuple[int, ...], kind: int = TensorProto.FLOAT, content: bytes = bytes(4)) -> TensorProto:
    return TensorProto(name="s", data_type=kind, dims=dims, raw_data=content)


def with_attribute(attribute: AttributeProto, name: str) -> ModelProto:
    """Return a model whose DequantizeLinear has this attribute under this name."""
    proto = model(node("DequantizeLinear", "x s z"), initializers=(initializer("s", 1, 2), initializer("z", 0)))
    attribute.name = name
    proto.graph.node[0].attribute.append(attribute)
    return proto


def _future() -> AttributeProto:
    """Return an attribute of type 99, which no version of ONNX defines."""
    return AttributeProto.FromString(b"\xa0\x01\x63")


Q, DQ = "QuantizeLinear", "DequantizeLinear"
KINDS = (Q, DQ, "Conv", "ConvTranspose", "Add", "Relu", "Clip", "DepthToSpace", "Reshape", "Transpose", "Concat")
ODD: Mapping[str, ModelProto] = {
    "nothing": ModelProto(),
    "no nodes": model(),
    **{f"{kind} of nothing": model(node(kind)) for kind in (*KINDS, "QLinearConv", "Constant", "Nonsense")},
    **{f"{kind} into nothing": model(node(kind, "a s z", "")) for kind in (*KINDS, "QLinearConv", "Constant")},
    **{f"{kind} of one": model(node(kind, "a")) for kind in KINDS},
    **{f"{kind} of itself": model(node(kind, "y y y")) for kind in KINDS},
    **{f"{kind} behind DQ": model(node(DQ, "", "a"), node(kind, "a a a")) for kind in KINDS},
    **{f"{kind} before Q": model(node(kind, "a s z", "b"), node(Q, "b")) for kind in KINDS},
    "a circle": model(node(Q, "b s z", "a"), node(DQ, "a s z", "b"), initializers=(initializer("s", 1, 2),)),
    "a circle of clips": model(
        *(node("Clip", "b", "a"), node("Clip", "a", "b"), node(Q, "a s z"), node("Conv", "y y")),
        initializers=(initializer("s", 1, 2), initializer("z", 0, kind=np.int8)),
    ),
    "a circle behind": model(
        *(node(DQ, "x s z", "a"), node("Relu", "b", "c"), node("Relu", "a", "b"), node("Relu", "c", "a")),
        initializers=(initializer("s", 1, 2), initializer("x", 1), initializer("z", 0, kind=np.int8)),
    ),
    "text as scales": model(
        node(Q, "x s z"), initializers=(TensorProto(name="s", data_type=TensorProto.STRING, string_data=[b"a"]),)
    ),
    "text as zero points": model(
        node(Q, "x s s"), initializers=(TensorProto(name="s", data_type=8, dims=[1], string_data=[b"a"]),)
    ),
    "an unknown type": model(node(Q, "x s s"), initializers=(raw((1,), 99),)),
    "no type": model(node(Q, "x s s"), initializers=(TensorProto(name="s"),)),
    "too few bytes": model(node(Q, "x s s"), initializers=(raw((1000,)),)),
    "too many bytes": model(node(Q, "x s s"), initializers=(raw((1,), content=bytes(7)),)),
    "a huge shape": model(node(Q, "x s s"), initializers=(raw((2**40, 2**40)),)),
    "a negative shape": model(node(Q, "x s s"), initializers=(raw((-1, 3)),)),
    "nan as scales": model(node(Q, "x s z"), node(DQ, "y s z", "b"), initializers=(initializer("s", np.nan),)),
    "values elsewhere": model(node(Q, "x s s"), initializers=(external("gone.bin"),)),
    "values above": model(node(Q, "x s s"), initializers=(external("../../secret"),)),
    "values in no file": model(node(Q, "x s s"), initializers=(external(""),)),
    "values in itself": model(node(Q, "x s s"), initializers=(external(FILE, offset="-5", length="many"),)),
    "values in a folder": model(node(Q, "x s s"), initializers=(external("."),)),
    "an unknown output type": model(node(Q, "x s z", output_dtype=999)),
    "a type as text": model(node(Q, "x s z", output_dtype="int8")),
    "an axis as text": with_attribute(helper.make_attribute("axis", "first"), "axis"),
    "an axis far out": with_attribute(helper.make_attribute("axis", 99), "axis"),
    "an attribute without a type": with_attribute(AttributeProto(), "axis"),
    "an attribute of a future type": with_attribute(_future(), "axis"),
    "a permutation of one number": model(node("Transpose", "a", perm=3)),
    "a constant of text": model(node("Constant", "", "s", value_string="a"), node(Q, "x s s")),
    "a constant as float": model(node("Constant", "", "s", value=1.5), node(Q, "x s s")),
    "a constant's list": model(node("Constant", "", "s", value_floats=[1.0]), node(Q, "x s s")),
    "two of one name": model(node(Q, "x s z"), node(Q, "x s z"), node("Relu", "y", "y")),
    "another domain": model(node(Q, "x s z", domain="com.microsoft")),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_graphs(sweep: Sweep, name: str) -> None:
    check(sweep, ODD[name].SerializeToString())


def concatenated(scale: TensorProto, *nodes: onnx.NodeProto) -> ModelProto:
    """Return a valid model that quantizes an image with this scale and concatenates it with itself."""
    ends = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1]), helper.make_tensor_value_info("y", 1, [2])
    zero = initializer("z", 0, kind=np.int8)
    graph = [*nodes, node(Q, "x s z", "q"), node(DQ, "q s z", "d"), node("Concat", "d d", axis=0)]
    initializers = [zero] if nodes else [zero, scale]
    return helper.make_model(helper.make_graph(graph, "g", ends[:1], ends[1:], initializers))


LONG = raw((1,), content=bytes(8))
ACCEPTED: Mapping[str, tuple[ModelProto, str]] = {
    "more values than the shape holds": (concatenated(LONG), "constant 's' cannot be read"),
    "a constant of more values": (
        concatenated(LONG, node("Constant", "", "s", value=LONG)),
        "constant 's' cannot be read",
    ),
    "text as a scale": (concatenated(numpy_helper.from_array(np.array(["a"], object), "s")), "scale 's' is no number"),
    "a complex scale": (
        concatenated(numpy_helper.from_array(np.array([1j], np.complex64), "s")),
        "scale 's' is no number",
    ),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_bad_constants_that_the_checker_accepts(sweep: Sweep, name: str) -> None:
    content, message = ACCEPTED[name]
    onnx.checker.check_model(content)
    check(sweep, content.SerializeToString())
    assert message in sweep(*LINT, names=[FILE]).err


@pytest.mark.parametrize("kind", [999, -1, 2**40])
def test_unknown_output_types_are_findings(sweep: Sweep, kind: int) -> None:
    content = concatenated(initializer("s", 1))
    content.graph.node[0].attribute.append(helper.make_attribute("output_dtype", kind))
    onnx.checker.check_model(content)
    check(sweep, content.SerializeToString())
    assert f"output of type {kind}" in sweep(*LINT).out


def array(name: str, *shape: int, value: object = 1, kind: type[np.generic] = np.float32) -> TensorProto:
    return numpy_helper.from_array(np.full(shape, value, kind), name)


def convolved(*tensors: TensorProto, axis: int = 0, clip: TensorProto | None = None) -> ModelProto:
    """Return a valid model of a convolution between quantizers.

    Args:
        tensors: initializers that replace the default ones of the same name: `w`eight, `s`cale and `z`ero point of the
            weight, scale `e` and zero point `u` of the image.
        axis: the channel axis of the weight's quantizers.
        clip: the upper end of a Clip between the image's quantizers.
    """
    defaults = (array("w", 2, 2, 1, 1), array("s", 2), array("z", 2, value=0, kind=np.int8), array("e"))
    initializers = {tensor.name: tensor for tensor in (*defaults, array("u", value=0, kind=np.uint8), *tensors)}
    image = [node(Q, "x e u", "q"), node(DQ, "c e u" if clip else "q e u", "i")]
    if clip:
        initializers["t"] = clip
        image.insert(1, node("Clip", "q u t", "c"))
    weight = [node(Q, "w s z", "k", axis=axis), node(DQ, "k s z", "d", axis=axis)]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 2, 4, 4]) for name in ("x", "y")]
    graph = [*image, *weight, node("Conv", "i d")]
    return helper.make_model(helper.make_graph(graph, "g", ends[:1], ends[1:], list(initializers.values())))


UNFIT: Mapping[str, tuple[ModelProto, str]] = {
    "too many scales": (convolved(array("s", 5)), "scales of 'k' do not fit its values"),
    "scales along no axis": (convolved(axis=99), "scales of 'k' do not fit its values"),
    "text as values": (convolved(array("w", 2, 2, 1, 1, value="a", kind=np.object_)), "do not fit its values"),
    "text as scales": (convolved(array("s", 2, value="a", kind=np.object_)), "do not fit its values"),
    "an end for each channel": (convolved(clip=array("t", 2, kind=np.uint8)), "the Clip before 'i' has no upper end"),
    "text as an end": (convolved(clip=array("t", value="a", kind=np.object_)), "the Clip before 'i' has no upper end"),
    "nan as an end": (convolved(clip=array("t", value=np.nan)), "the Clip before 'i' has no upper end"),
    "nothing but 0": (convolved(clip=array("t", value=0, kind=np.uint8)), ""),
    "text as zero points": (convolved(array("z", 2, value="a", kind=np.object_)), ""),
    "float zero points": (convolved(helper.make_tensor("z", TensorProto.FLOAT8E4M3FN, [2], [0.0, 0.0])), ""),
}


@pytest.mark.parametrize("name", UNFIT)
def test_quantizers_that_do_not_fit(sweep: Sweep, name: str) -> None:
    content, message = UNFIT[name]
    onnx.checker.check_model(content)
    check(sweep, content.SerializeToString())
    assert message in sweep("lint", FILE, "--target", "onnxruntime", names=[FILE]).err


MALFORMED: Mapping[str, tuple[tuple[int, ...], str, Mapping[str, Any]]] = {
    "groups that do not divide": ((2, 2, 1, 1), "ConvTranspose", {"group": 3}),
    "no groups": ((2, 2, 1, 1), "ConvTranspose", {"group": 0}),
    "less than no groups": ((2, 2, 1, 1), "ConvTranspose", {"group": -2}),
    "no input channels": ((2, 0, 1, 1), "Conv", {}),
    "empty matrices": ((2, 0, 3), "MatMul", {}),
    "a matrix of four dimensions": ((2, 2, 1, 1), "Gemm", {}),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_weights_that_do_not_fit(sweep: Sweep, name: str) -> None:
    shape, kind, attributes = MALFORMED[name]
    content = convolved(array("w", *shape))
    content.graph.node[-1].CopyFrom(node(kind, "i d", **attributes))
    onnx.checker.check_model(content)
    check(sweep, content.SerializeToString())


def test_circles_of_nodes_are_refused(sweep: Sweep) -> None:
    circle = (node("Relu", "a", "b"), node("Relu", "b", "a"), node(DQ, "w s", "a"))
    scale, weight = initializer("s", 1, 2), initializer("w", 1, 2, kind=np.int8)
    check(sweep, model(*circle, initializers=(scale, weight)).SerializeToString())
    assert "values are computed from themselves" in sweep(*LINT).err


def test_escape_codes_in_node_names(sweep: Sweep) -> None:
    odd = model(node("QLinearConv", "a", "\x1b[2Jy\n\n"))
    odd.graph.node[0].name = "\x1b]0;title\x07"
    check(sweep, odd.SerializeToString())


def linked(path: Path, target: str) -> None:
    path.symlink_to(target)


PLACES: Mapping[str, Callable[[Path], object]] = {
    "nowhere": lambda _: None,
    "a folder": Path.mkdir,
    "a link to nothing": lambda path: linked(path, "nowhere"),
    "a link to itself": lambda path: linked(path, FILE),
    "a device": lambda path: linked(path, "/dev/null"),
    "a link to a folder": lambda path: linked(path, "."),
}


@pytest.mark.parametrize("name", PLACES)
def test_models_that_are_no_regular_file(sweep: Sweep, name: str) -> None:
    PLACES[name](sweep.place / FILE)
    sweep(*LINT, names=[FILE])


@pytest.mark.parametrize("target", ["", "tensort", "paper", "snpe", "..", "x" * 300])
def test_odd_targets(sweep: Sweep, target: str) -> None:
    sweep("lint", FILE, "--target", target, names=["target", "encodings"])
