"""Files for `srptq lint`: damaged ones, and graphs that no exporter would write."""

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
TARGETS = ("tensorrt", "onnxruntime", "openvino")


def check(sweep: Sweep, content: bytes) -> None:
    (sweep.place / FILE).write_bytes(content)
    for target in TARGETS:
        sweep("lint", FILE, "--target", target, names=[FILE])


@pytest.fixture(scope="module")
def plain() -> bytes:
    return networks.float_model("mixed").SerializeToString()


@pytest.fixture(scope="module")
def quantized(runs: Callable[[str], Path]) -> bytes:
    return (runs("onnxruntime") / "model_onnxruntime.onnx").read_bytes()


@pytest.mark.parametrize("mutation", binary(12, 30, 12, 12), ids=str)
def test_damaged(sweep: Sweep, plain: bytes, mutation: Mutation) -> None:
    check(sweep, mutation(plain))


@pytest.mark.parametrize("mutation", binary(4, 24, 12), ids=str)
def test_damaged_with_quantizers(sweep: Sweep, quantized: bytes, mutation: Mutation) -> None:
    check(sweep, mutation(quantized))


@pytest.mark.parametrize("place", ["body_conv", "Conv", "kernel"])
def test_names_that_are_no_text(sweep: Sweep, place: str) -> None:
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
    """A file that nobody checked."""
    found = ModelProto(ir_version=10)
    found.opset_import.add(version=20)
    found.graph.node.extend(nodes)
    found.graph.initializer.extend(initializers)
    return found


def elsewhere(location: str, **more: str) -> TensorProto:
    """An initializer whose values are in another file."""
    tensor = TensorProto(name="s", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, **more}.items():
        tensor.external_data.add(key=key, value=value)
    return tensor


def raw(dims: tuple[int, ...], kind: int = TensorProto.FLOAT, content: bytes = bytes(4)) -> TensorProto:
    return TensorProto(name="s", data_type=kind, dims=dims, raw_data=content)


def wrongly(attribute: AttributeProto, name: str) -> ModelProto:
    """An attribute of a type that the operation does not have."""
    found = model(node("DequantizeLinear", "x s z"), initializers=(initializer("s", 1, 2), initializer("z", 0)))
    attribute.name = name
    found.graph.node[0].attribute.append(attribute)
    return found


def _future() -> AttributeProto:
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
    "values elsewhere": model(node(Q, "x s s"), initializers=(elsewhere("gone.bin"),)),
    "values above": model(node(Q, "x s s"), initializers=(elsewhere("../../secret"),)),
    "values in no file": model(node(Q, "x s s"), initializers=(elsewhere(""),)),
    "values in itself": model(node(Q, "x s s"), initializers=(elsewhere(FILE, offset="-5", length="many"),)),
    "values in a folder": model(node(Q, "x s s"), initializers=(elsewhere("."),)),
    "an unknown output type": model(node(Q, "x s z", output_dtype=999)),
    "a type as text": model(node(Q, "x s z", output_dtype="int8")),
    "an axis as text": wrongly(helper.make_attribute("axis", "first"), "axis"),
    "an axis far out": wrongly(helper.make_attribute("axis", 99), "axis"),
    "an attribute without a type": wrongly(AttributeProto(), "axis"),
    "an attribute of a future type": wrongly(_future(), "axis"),
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


def pairs(scale: TensorProto, *nodes: onnx.NodeProto) -> ModelProto:
    """A whole model: a concat of an image that is quantized with this scale."""
    ends = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1]), helper.make_tensor_value_info("y", 1, [2])
    zero = initializer("z", 0, kind=np.int8)
    made = [*nodes, node(Q, "x s z", "q"), node(DQ, "q s z", "d"), node("Concat", "d d", axis=0)]
    held = [zero] if nodes else [zero, scale]
    return helper.make_model(helper.make_graph(made, "g", ends[:1], ends[1:], held))


LONG = raw((1,), content=bytes(8))
ACCEPTED: Mapping[str, tuple[ModelProto, str]] = {
    "more values than the shape holds": (pairs(LONG), "constant 's' cannot be read"),
    "a constant of more values": (pairs(LONG, node("Constant", "", "s", value=LONG)), "constant 's' cannot be read"),
    "text as a scale": (pairs(numpy_helper.from_array(np.array(["a"], object), "s")), "scale 's' is no number"),
    "a complex scale": (pairs(numpy_helper.from_array(np.array([1j], np.complex64), "s")), "scale 's' is no number"),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_what_the_checker_accepts_is_refused(sweep: Sweep, name: str) -> None:
    content, told = ACCEPTED[name]
    onnx.checker.check_model(content)
    check(sweep, content.SerializeToString())
    assert told in sweep(*LINT, names=[FILE]).err


@pytest.mark.parametrize("kind", [999, -1, 2**40])
def test_an_unknown_type_is_a_finding(sweep: Sweep, kind: int) -> None:
    content = pairs(initializer("s", 1))
    content.graph.node[0].attribute.append(helper.make_attribute("output_dtype", kind))
    onnx.checker.check_model(content)
    check(sweep, content.SerializeToString())
    assert f"output of type {kind}" in sweep(*LINT).out


def array(name: str, *shape: int, value: object = 1, kind: type[np.generic] = np.float32) -> TensorProto:
    return numpy_helper.from_array(np.full(shape, value, kind), name)


def convolved(*tensors: TensorProto, axis: int = 0, clip: TensorProto | None = None) -> ModelProto:
    """A whole model: a convolution of 2 channels between quantizers, with these tensors in place of usual ones."""
    usual = (array("w", 2, 2, 1, 1), array("s", 2), array("z", 2, value=0, kind=np.int8), array("e"))
    held = {each.name: each for each in (*usual, array("u", value=0, kind=np.uint8), *tensors)}
    image = [node(Q, "x e u", "q"), node(DQ, "c e u" if clip else "q e u", "i")]
    if clip:
        held["t"] = clip
        image.insert(1, node("Clip", "q u t", "c"))
    weight = [node(Q, "w s z", "k", axis=axis), node(DQ, "k s z", "d", axis=axis)]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 2, 4, 4]) for name in ("x", "y")]
    made = [*image, *weight, node("Conv", "i d")]
    return helper.make_model(helper.make_graph(made, "g", ends[:1], ends[1:], list(held.values())))


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
    content, told = UNFIT[name]
    onnx.checker.check_model(content)
    check(sweep, content.SerializeToString())
    assert told in sweep("lint", FILE, "--target", "onnxruntime", names=[FILE]).err


MISMADE: Mapping[str, tuple[tuple[int, ...], str, Mapping[str, Any]]] = {
    "groups that do not divide": ((2, 2, 1, 1), "ConvTranspose", {"group": 3}),
    "no groups": ((2, 2, 1, 1), "ConvTranspose", {"group": 0}),
    "less than no groups": ((2, 2, 1, 1), "ConvTranspose", {"group": -2}),
    "no input channels": ((2, 0, 1, 1), "Conv", {}),
    "empty matrices": ((2, 0, 3), "MatMul", {}),
    "a matrix of four dimensions": ((2, 2, 1, 1), "Gemm", {}),
}


@pytest.mark.parametrize("name", MISMADE)
def test_weights_that_do_not_fit(sweep: Sweep, name: str) -> None:
    shape, kind, attributes = MISMADE[name]
    content = convolved(array("w", *shape))
    content.graph.node[-1].CopyFrom(node(kind, "i d", **attributes))
    onnx.checker.check_model(content)
    check(sweep, content.SerializeToString())


def test_two_nodes_of_one_output_make_a_circle(sweep: Sweep) -> None:
    circle = (node("Relu", "a", "b"), node("Relu", "b", "a"), node(DQ, "w s", "a"))
    scale, weight = initializer("s", 1, 2), initializer("w", 1, 2, kind=np.int8)
    check(sweep, model(*circle, initializers=(scale, weight)).SerializeToString())
    assert "values are computed from themselves" in sweep(*LINT).err


def test_names_that_disturb_a_terminal(sweep: Sweep) -> None:
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
def test_what_is_no_file(sweep: Sweep, name: str) -> None:
    PLACES[name](sweep.place / FILE)
    sweep(*LINT, names=[FILE])


@pytest.mark.parametrize("target", ["", "tensort", "paper", "snpe", "..", "x" * 300])
def test_other_targets(sweep: Sweep, target: str) -> None:
    sweep("lint", FILE, "--target", target, names=["target"])
