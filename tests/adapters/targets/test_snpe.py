"""SNPE's files: a float network with weights at their levels, and encodings that reproduce the simulation."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from helpers import networks
from onnx import numpy_helper

from srptq_plugin.deploy.quant_table import QuantTable
from srptq_plugin.errors import SrptqError
from srptq_plugin.plugins.bound_recipe import BoundRecipe
from srptq_plugin.plugins.protocols import Runtime
from srptq_plugin.plugins.registry import Registry
from srptq_plugin.quantization.grid import dequantize

pytest.importorskip("onnxruntime")

from srptq_adapters.targets.encodings import VERSIONS, read
from srptq_adapters.targets.snpe import ENCODINGS, TARGET

Deploy = Callable[..., tuple[QuantTable, list[Path]]]
ErrorShare = Callable[[str, QuantTable, Runtime], float]
SIXTEEN = {stage: {"activations": 16} for stage in ("head", "tail")}
CASES = {
    "w8a8": (8, {}),
    "w8a16": (8, {"activations": {"bits": 16}, "stages": SIXTEEN}),
    "edges16": (8, {"stages": SIXTEEN}),
    "legacy": (8, {"preset": "legacy", "weights": {"bits": 8, "per_channel": False}}),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", [*networks.NETWORKS, "rdn", "rrdb", "fsrcnn", "lapsrn"])
def test_the_files_reproduce_the_simulation(kind: str, case: str, deploy: Deploy, error_share: ErrorShare) -> None:
    bits, keys = CASES[case]
    table, files = deploy(kind, "snpe", bits, **keys)
    assert error_share(kind, table, TARGET.load(files[0])) < 0.05


def test_weights_of_the_float_file_are_at_levels(deploy: Deploy) -> None:
    table, files = deploy("edsr", "snpe", 8)
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(files[0]).graph.initializer}
    names = list(read(files[1], weights).parameters)
    levels = [dequantize(table.weights[name], table.qparams[name]).numpy() for name in table.weights]
    assert names
    assert all(np.array_equal(weights[name], level) for name, level in zip(names, levels, strict=True))


KINDS = ["edsr", "mixed", "bicubic", "activations", "channelslast", "tokens", "esa", "fsrcnn", "lapsrn"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_tensor_has_an_encoding(kind: str, deploy: Deploy) -> None:
    """Find tensors of real numbers without one. Movement has its input's, and activations are computed inside."""
    table, files = deploy(kind, "snpe", 8)
    assert table.plan.floats == {}
    model = onnx.shape_inference.infer_shapes(onnx.load(files[0]), data_prop=True)
    known = read(files[1], [tensor.name for tensor in model.graph.initializer]).activations
    real = {
        info.name
        for info in (*model.graph.value_info, *model.graph.input, *model.graph.output)
        if info.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    }
    inside = {node.input[0] for node in model.graph.node if node.op_type in ("Relu", "LeakyRelu", "PRelu")}
    movement = ("DepthToSpace", "MaxPool", "Split", "Cast", "Transpose", "Reshape", "Squeeze", "Unsqueeze")
    moved = {name for node in model.graph.node if node.op_type in movement for name in node.output}
    shifts = {node.output[0] for node in model.graph.node if node.op_type == "Conv" and "mean" in node.input[1]}
    assert not real - set(known) - inside - moved - shifts


@pytest.mark.parametrize("kind", ["activations", "channelslast", "tokens", "esa"])
def test_files_with_attention_reproduce_the_simulation(kind: str, deploy: Deploy, error_share: ErrorShare) -> None:
    table, files = deploy(kind, "snpe", 8)
    assert error_share(kind, table, TARGET.load(files[0])) < 0.05


def test_pixel_shuffle_has_no_encoding_of_its_own(deploy: Deploy) -> None:
    _, files = deploy("edsr", "snpe", 8)
    graph = onnx.load(files[0]).graph
    known = read(files[1], [tensor.name for tensor in graph.initializer]).activations
    (shuffle,) = [node for node in graph.node if node.op_type == "DepthToSpace"]
    assert shuffle.input[0] in known
    assert shuffle.output[0] not in known


def test_an_enlarged_map_repeats_the_smaller_encoding(deploy: Deploy) -> None:
    _, files = deploy("esrgan", "snpe", 8)
    graph = onnx.load(files[0]).graph
    known = read(files[1], [tensor.name for tensor in graph.initializer]).activations
    (resize,) = [node for node in graph.node if node.op_type == "Resize"]
    small, large = (known[name] for name in (resize.input[0], resize.output[0]))
    assert (small.scale, small.zero_point) == (large.scale, large.zero_point)


def test_the_image_is_encoded_before_movement(deploy: Deploy) -> None:
    _, files = deploy("rrdb", "snpe", 8)
    graph = onnx.load(files[0]).graph
    known = read(files[1], [tensor.name for tensor in graph.initializer]).activations
    first = next(node for node in graph.node if node.op_type == "Conv")
    assert known[graph.input[0].name].scale * 255 == pytest.approx(1)
    assert first.input[0] not in known


def test_a_tensor_has_one_encoding_of_most_bits(deploy: Deploy) -> None:
    table, _ = deploy("edsr", "snpe", 8, activations={"bits": 16})
    sources = [site.source for site in table.plan.sites if site.role == "activation"]
    assert len(sources) == len(set(sources))
    assert {site.grid.bits for site in table.plan.sites if site.role == "activation"} == {8, 16}


@pytest.mark.parametrize("kind", ["edsr", "rrdb"])
def test_stages_of_16_bits_are_written_so(kind: str, deploy: Deploy) -> None:
    """Check the edges of the network: before the first convolution, and on either side of the last."""
    table, files = deploy(kind, "snpe", 8, stages=SIXTEEN)
    graph = onnx.load(files[0]).graph
    encodings = read(files[1], [tensor.name for tensor in graph.initializer])
    convs = [node for node in graph.node if node.op_type == "Conv" and node.input[1] in encodings.parameters]
    wide = {name for name, qparams in encodings.activations.items() if qparams.grid.bits == 16}
    assert {convs[-1].input[0], convs[-1].output[0]} <= wide
    assert {site.stage for site in table.plan.sites if site.grid.bits == 16} == {"head", "tail"}
    assert {qparams.grid.bits for name, qparams in encodings.activations.items() if name not in wide} == {8}
    assert {qparams.grid.bits for qparams in encodings.parameters.values()} == {8}


@pytest.mark.parametrize("version", VERSIONS)
def test_the_version_of_encodings_can_be_chosen(
    version: str, deploy: Deploy, float_file: Callable[[str], Path], tmp_path: Path
) -> None:
    table, files = deploy("shared", "snpe", 8)
    written = TARGET.write(float_file("shared"), table, tmp_path, encodings=version)  # pyright: ignore[reportArgumentType]
    assert f'"version": "{version}"' in (tmp_path / ENCODINGS).read_text()
    image = networks.images(1).numpy()
    assert np.array_equal(TARGET.load(written[0])(image), TARGET.load(files[0])(image))


def test_legacy_weights_have_one_scale() -> None:
    with pytest.raises(SrptqError, match=r"weights\.per_channel: true, but snpe has one scale.*set it to false"):
        BoundRecipe.of(networks.recipe(8, "snpe", preset="legacy"), Registry())


def test_integer_convolutions_of_the_phone_are_unknown(deploy: Deploy) -> None:
    _, files = deploy("edsr", "snpe", 8)
    assert TARGET.load(files[0]).integer_convs() is None
    assert torch.tensor(TARGET.load(files[0])(networks.images(1).numpy())).isfinite().all()
