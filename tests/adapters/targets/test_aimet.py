"""AIMET on the files of the target snpe: the same output, and rounding at the same tensors."""

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from helpers import aimet, networks

from srptq_plugin.deploy.quant_table import QuantTable

pytest.importorskip("onnxruntime")

from srptq_adapters.targets.encodings import VERSIONS, Version, read
from srptq_adapters.targets.snpe import TARGET

Deploy = Callable[..., tuple[QuantTable, list[Path]]]
IMAGES = networks.images(2, seed=5)
HARDWARE = {"default": "htp_quantsim_config_v73", "dsp": "dsp_quantsim_config"}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("kind", ["edsr", "imdn", "esrgan"])
def test_aimet_and_the_reference_runtime_agree(kind: str, version: Version, deploy: Deploy, tmp_path: Path) -> None:
    table, files = deploy(kind, "snpe", 8)
    network, encodings = TARGET.write(files[0], table, tmp_path, encodings=version)
    reference = TARGET.load(network)(IMAGES.numpy())
    record = aimet.simulated(network, encodings, IMAGES.numpy(), reference)
    assert record["version"] == version
    assert aimet.decibels(record) > 100


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("kind", ["edsr", "rrdb"])
def test_aimet_agrees_on_edges_of_16_bits(kind: str, version: Version, deploy: Deploy, tmp_path: Path) -> None:
    edges = {stage: {"activations": 16} for stage in ("head", "tail")}
    table, files = deploy(kind, "snpe", 8, stages=edges)
    network, encodings = TARGET.write(files[0], table, tmp_path, encodings=version)
    record = aimet.simulated(network, encodings, IMAGES.numpy(), TARGET.load(network)(IMAGES.numpy()))
    assert aimet.decibels(record) > 80


@pytest.mark.parametrize("preset", HARDWARE)
@pytest.mark.parametrize("kind", ["edsr", "imdn"])
def test_tensors_are_rounded_as_qualcomms_settings_say(kind: str, preset: str, deploy: Deploy, tmp_path: Path) -> None:
    table, files = deploy(kind, "snpe", 8, preset=preset)
    network, encodings = TARGET.write(files[0], table, tmp_path, encodings="1.0.0")
    graph = onnx.load(network).graph
    written = read(encodings, [tensor.name for tensor in graph.initializer])
    convs = {node.output[0] for node in graph.node if node.op_type == "Conv" and node.input[1] in written.parameters}
    after = {node.output[0] for node in graph.node if node.input and node.input[0] in convs}
    assert set(written.activations) & (convs | after) == aimet.quantized(network, HARDWARE[preset]) & (convs | after)
