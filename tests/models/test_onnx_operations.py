"""Operations that are read from ONNX files, against ONNX Runtime."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from srptq_plugin.errors import SrptqError
from srptq_plugin.models.onnx_import.reading import load_onnx

MAP = (2, 8, 6, 10)
OPSET = 20
RNG = np.random.default_rng(0)


@dataclass(frozen=True)
class Case:
    """One operation, whose first input is a map and whose others are constants or, as `X`, the map again."""

    kind: str
    others: Sequence[Any] = ()
    attributes: Mapping[str, Any] = field(default_factory=dict[str, Any])
    opset: int = OPSET
    shape: tuple[int, ...] = MAP
    outputs: int = 1
    map_last: bool = False

    def __str__(self) -> str:
        return f"{self.kind} {self.opset} {[np.shape(other) for other in self.others]} {dict(self.attributes)}"


X = "the map itself"


def floats(*shape: int) -> Any:
    return RNG.normal(size=shape).astype(np.float32)


def sizes(*values: int) -> Any:
    return np.array(values, np.int64)


def scales(*values: float) -> Any:
    return np.array(values, np.float32)


def model(case: Case) -> onnx.ModelProto:
    """Return a model of one operation, whose outputs are joined flat."""
    constants = {f"c{n}": other for n, other in enumerate(case.others) if other is not None and other is not X}
    names = ["x" if other is X else "" if other is None else f"c{n}" for n, other in enumerate(case.others)]
    inputs = [*names, "x"] if case.map_last else ["x", *names]
    outputs = [f"y{n}" for n in range(case.outputs)]
    node = helper.make_node(case.kind, inputs, outputs, name="op", **case.attributes)
    ends = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", *[None] * (len(case.shape) - 1)]),
        *[onnx.ValueInfoProto(name=name) for name in outputs],
    ]
    weights = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph([node], "g", ends[:1], ends[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", case.opset)], ir_version=8)


def computed(case: Case, path: Path) -> tuple[list[Any], list[Any]]:
    """Return the outputs of ONNX Runtime and of the module."""
    onnxruntime = pytest.importorskip("onnxruntime")
    onnx.save(model(case), path)
    image = RNG.normal(size=case.shape).astype(np.float32)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    with torch.no_grad():
        result: Any = load_onnx(path, {}).network.module(torch.from_numpy(image))
    outputs = list(result.values()) if isinstance(result, dict) else [result]
    return session.run(None, {"x": image}), [np.asarray(output) for output in outputs]


PAIRS = [(X,), (floats(8, 1, 1),), (scales(0.3),), (np.float32(-2.5),), (floats(2, 8, 6, 10),), (floats(1, 1, 1, 10),)]
CASES = [
    *(Case(kind, other) for kind in ("Add", "Sub", "Mul", "Div", "Max", "Min", "Sum") for other in PAIRS),
    *(Case(kind, [scales(0.3)], map_last=True) for kind in ("Sub", "Div", "Max")),
    *(Case(kind) for kind in ("Abs", "Ceil", "Cos", "Erf", "Exp", "Floor", "Identity", "Neg", "Relu", "Round")),
    *(Case(kind) for kind in ("Sigmoid", "Sign", "Sin", "Softplus", "Tanh", "HardSwish", "Mish", "Reciprocal")),
    *(Case(kind) for kind in ("HardSigmoid", "LeakyRelu", "Elu", "Gelu", "GlobalAveragePool", "GlobalMaxPool")),
    Case("HardSigmoid", attributes={"alpha": 1 / 6, "beta": 0.5}),
    Case("HardSigmoid", attributes={"alpha": 0.3, "beta": 0.1}),
    Case("LeakyRelu", attributes={"alpha": 0.2}),
    Case("Elu", attributes={"alpha": 0.7}),
    Case("Gelu", attributes={"approximate": "tanh"}),
    Case("Pow", [scales(2)]),
    Case("Pow", [np.float32(3)]),
    *(Case("Clip", others) for others in ([], [np.float32(0)], [np.float32(-0.5), np.float32(0.4)], [None, scales(1)])),
    Case("Clip", attributes={"min": 0.0, "max": 0.5}, opset=6),
    *(Case("PRelu", [floats(*shape)]) for shape in ((8, 1, 1), (1,), (1, 8, 1, 1), (10,))),
    *(Case("Softmax", attributes={"axis": axis}, opset=opset) for axis in (1, -1) for opset in (11, 13)),
    *(Case("Transpose", attributes={"perm": perm}) for perm in ([0, 2, 3, 1], [1, 0, 3, 2])),
    Case("Transpose"),
    *(Case("Flatten", attributes={"axis": axis}) for axis in (1, 2, 3)),
    Case("Concat", [X, floats(2, 3, 6, 10)], {"axis": 1}),
    Case("Split", attributes={"axis": 1, "num_outputs": 2}, outputs=2),
    Case("Split", attributes={"axis": 1, "num_outputs": 3}, outputs=3),
    Case("Split", [sizes(1, 7)], {"axis": 1}, outputs=2),
    Case("Split", attributes={"axis": -3, "split": [3, 5]}, opset=11, outputs=2),
    Case("Slice", [sizes(1, 2), sizes(5, 2**62), sizes(1, 3)]),
    Case("Slice", [sizes(0), sizes(-1), sizes(2), sizes(2)]),
    Case("Slice", attributes={"starts": [1], "ends": [-1], "axes": [-2]}, opset=9),
    *(Case("Gather", [indices], {"axis": 1}) for indices in (np.int64(3), sizes(5, 0), np.array([[1, 2], [0, 7]]))),
    Case("Reshape", [sizes(0, 2, 4, -1, 10)]),
    Case("Unsqueeze", [sizes(1, -1)]),
    Case("Unsqueeze", attributes={"axes": [1, 3]}, opset=11),
    Case("Squeeze", [sizes(1)], shape=(2, 1, 6, 10)),
    Case("Squeeze", shape=(2, 1, 6, 1)),
    Case("Expand", [sizes(2, 1, 8, 6, 10)]),
    Case("Tile", [sizes(1, 2, 1, 3)]),
    *(Case(f"Reduce{kind}", [sizes(2, 3)]) for kind in ("Mean", "Max", "Min", "L2", "SumSquare", "Sum")),
    Case("ReduceMean", [sizes(1)], {"keepdims": 0}),
    Case("ReduceMean", attributes={"axes": [2, 3]}, opset=13),
    Case("ReduceSum", attributes={"noop_with_empty_axes": 1}),
    Case("ReduceMean"),
    *(Case("DepthToSpace", attributes={"blocksize": 2, "mode": mode}) for mode in ("DCR", "CRD")),
    Case("DepthToSpace", attributes={"blocksize": 2}),
    Case("SpaceToDepth", attributes={"blocksize": 2}),
    *(Case("Resize", [None, scales(1, 1, 2, 3)], {"mode": mode}) for mode in ("nearest", "linear", "cubic")),
    Case(
        "Resize",
        [None, scales(1, 1, 0.5, 2.5)],
        {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"},
    ),
    *(
        Case("Resize", [None, None, sizes(2, 8, 15, 12)], {"mode": mode, "coordinate_transformation_mode": coordinates})
        for mode in ("linear", "cubic")
        for coordinates in ("half_pixel", "align_corners", "pytorch_half_pixel")
    ),
    Case("Resize", [scales(1, 1, 2, 2)], {"mode": "nearest"}, opset=10),
    Case("Resize", [None, scales(2, 2)], {"mode": "linear", "axes": [2, 3]}),
    Case("Upsample", [scales(1, 1, 2, 2)], {"mode": "nearest"}, opset=9),
    Case("Upsample", attributes={"mode": "nearest", "scales": [1.0, 1.0, 3.0, 2.0]}, opset=7),
    *(Case("Conv", [floats(4, 8, 3, 3), bias], {"pads": [1, 1, 1, 1]}) for bias in (None, floats(4))),
    Case("Conv", [floats(4, 8, 3, 2)], {"auto_pad": "SAME_UPPER"}),
    Case("Conv", [floats(4, 8, 2, 2)], {"auto_pad": "SAME_LOWER"}),
    Case("Conv", [floats(4, 8, 3, 3)], {"auto_pad": "VALID", "strides": [2, 2]}),
    Case("Conv", [floats(8, 1, 5, 3)], {"group": 8, "pads": [2, 0, 1, 2], "strides": [2, 1]}),
    Case("Conv", [floats(4, 8, 3)], {"pads": [1, 1]}, shape=(2, 8, 12)),
    *(
        Case("ConvTranspose", [floats(8, 3, 5, 5), floats(3)], {"strides": [2, 2], **attributes})
        for attributes in (
            {"pads": [2, 2, 2, 2]},
            {"pads": [2, 2, 2, 2], "output_padding": [1, 1]},
            {"pads": [2, 2, 1, 1]},
        )
    ),
    Case("ConvTranspose", [floats(8, 2, 3, 3)], {"group": 4, "dilations": [2, 1]}),
    Case("BatchNormalization", [floats(8), floats(8), floats(8), floats(8) ** 2], {"epsilon": 1e-3}),
    Case("InstanceNormalization", [floats(8), floats(8)], {"epsilon": 1e-3}),
    Case("LayerNormalization", [floats(10), floats(10)], {"epsilon": 1e-3}),
    Case("LayerNormalization", [floats(8, 6, 10)], {"axis": 1}),
    *(
        Case("AveragePool", attributes={"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1], **others})
        for others in ({}, {"count_include_pad": 1}, {"ceil_mode": 1})
    ),
    Case("AveragePool", attributes={"kernel_shape": [2, 2], "pads": [0, 0, 1, 1], "count_include_pad": 1}),
    *(
        Case("MaxPool", attributes={"kernel_shape": [3, 2], "strides": [3, 2], **others})
        for others in ({}, {"pads": [1, 1, 1, 1]}, {"pads": [0, 0, 2, 1]}, {"ceil_mode": 1}, {"dilations": [2, 1]})
    ),
    *(Case("Pad", [sizes(0, 0, 1, 2, 0, 0, 3, 0)], {"mode": mode}) for mode in ("constant", "reflect", "edge", "wrap")),
    Case("Pad", [sizes(0, 0, 1, 2, 0, 1, 3, 0), np.float32(0.7)]),
    Case("Pad", [sizes(1, 2), np.float32(0.7), sizes(-1)]),
    Case("Pad", [sizes(0, 0, -1, 0, 0, 0, 2, -3)]),
    Case("Pad", attributes={"pads": [0, 0, 1, 2, 0, 0, 3, 0], "value": 0.5}, opset=9),
    Case("MatMul", [floats(10, 5)]),
    Case("MatMul", [floats(2, 8, 10, 3)]),
    Case("Gemm", [floats(10, 4), floats(4)], shape=(6, 10)),
    Case("Gemm", [floats(4, 10), floats(6, 4)], {"transB": 1, "alpha": 0.5, "beta": 2.0}, shape=(6, 10)),
    Case("Einsum", [X], {"equation": "nchw,nkhw->nck"}),
    Case("Shape"),
    Case("Shape", attributes={"start": 1, "end": -1}),
    Case("Size"),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_an_operation_computes_as_onnxruntime(case: Case, tmp_path: Path) -> None:
    expected, given = computed(case, tmp_path / "model.onnx")
    for left, right in zip(expected, given, strict=True):
        assert left.shape == right.shape
        np.testing.assert_allclose(right.astype(left.dtype), left, rtol=1e-5, atol=2e-5)


REFUSED = [
    (
        Case("Resize", [None, scales(1, 1, 2, 2)], {"mode": "linear", "coordinate_transformation_mode": "asymmetric"}),
        "asym",
    ),
    (Case("Resize", [None, scales(1, 2, 2, 2)], {"mode": "linear"}), "only height and width"),
    (Case("Resize", [None, scales(1, 1, 2, 2)], {"mode": "cubic", "cubic_coeff_a": -0.5}), "torch has not"),
    (Case("Resize", [None, scales(1, 1, 0.5, 0.5)], {"mode": "linear", "antialias": 1}), "torch has not"),
    (Case("Upsample", [scales(1, 1, 2, 2)], {"mode": "linear"}, opset=9), "export with opset 11"),
    (Case("Slice", [sizes(-1), sizes(-100), sizes(3), sizes(-1)]), "reverses an axis"),
    (Case("Conv", [floats(4, 8, 3, 3)], {"auto_pad": "SAME_UPPER", "strides": [2, 2]}), "export with `pads`"),
    (Case("ConvTranspose", [floats(8, 3, 3, 3)], {"output_shape": [12, 20]}), "export with `pads`"),
    (Case("LayerNormalization", [floats(6, 10)]), "other axes"),
    (Case("AveragePool", attributes={"kernel_shape": [2, 2], "pads": [0, 0, 1, 1]}), "torch's pool is not"),
]


@pytest.mark.parametrize(("case", "message"), REFUSED, ids=str)
def test_what_torch_has_not_is_refused(case: Case, message: str, tmp_path: Path) -> None:
    onnx.save(model(case), tmp_path / "model.onnx")
    with pytest.raises(SrptqError, match=f"{case.kind} .op.*{message}"):
        load_onnx(tmp_path / "model.onnx", {}).network.module(torch.zeros(case.shape))
