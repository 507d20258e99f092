"""Networks from the ONNX files that torch's exporters write of them."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from helpers.exporters import export
from helpers.toy_modules import NETWORKS, OTHERS
from torch import nn

from srptq_plugin.graph.export import export_network, graph_of
from srptq_plugin.graph.network import Network
from srptq_plugin.graph.stages import block_paths
from srptq_plugin.models.loading import describe, load_model
from srptq_plugin.models.model_record import LoadedModel, SRNetwork

Exported = Callable[[str, str], tuple[nn.Module, Path]]
TOYS = {**NETWORKS, **OTHERS}
IMAGE = torch.rand(1, 3, 24, 32, generator=torch.Generator().manual_seed(0))
OTHER = torch.rand(1, 3, 36, 48, generator=torch.Generator().manual_seed(1))
RENAMED = {
    ("shared", "legacy"): {"block_1/add", "block_1/relu", "block.first_1/conv", "block.second_1/conv"},
    ("normed", "dynamo"): {"body.0.1/conv", "body.0.4/conv", "body.1.1/conv", "body.1.4/conv"},
}
"""Keys that are other than the module's: an exporter names a second call otherwise, and a norm's convolution."""


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """Return a function that gives a toy and its ONNX file by an exporter, written once."""
    folder = tmp_path_factory.mktemp("networks")

    @cache
    def of(kind: str, exporter: str) -> tuple[nn.Module, Path]:
        module = TOYS[kind]().eval()
        return module, export(module, folder / f"{kind}_{exporter}.onnx", exporter)

    return of


def keys(loaded: LoadedModel) -> Network:
    """Return the exported graph of a network."""
    return Network(graph_of(export_network(loaded.module, loaded.only_size, loaded.record.multiple)))


@pytest.mark.parametrize("exporter", ["dynamo", "legacy", "fixed"])
@pytest.mark.parametrize("kind", TOYS)
def test_a_network_computes_as_its_module(kind: str, exporter: str, exported: Exported) -> None:
    module, file = exported(kind, exporter)
    loaded = load_model(file)
    assert loaded.record.scale == describe(kind, SRNetwork(module)).record.scale
    with torch.no_grad():
        for image in (IMAGE,) if exporter == "fixed" else (IMAGE, OTHER):
            torch.testing.assert_close(loaded.module(image), module(image), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("exporter", ["dynamo", "legacy"])
@pytest.mark.parametrize("kind", ["edsr", "imdn", "esrgan", "shared", "normed", "channelslast", "rdn", "fsrcnn"])
def test_layers_and_blocks_have_the_modules_names(kind: str, exporter: str, exported: Exported) -> None:
    module, file = exported(kind, exporter)
    own = keys(load_model(file))
    expected = keys(describe(kind, SRNetwork(module)))
    renamed = RENAMED.get((kind, exporter), set())
    # The newer exporter does not say where a split was.
    layers = {name for name in own.nodes if not name.startswith(("/split", "/getitem"))}
    assert layers - set(expected.nodes) == renamed
    assert len(own.ops) == len(expected.ops)
    assert block_paths(own) == block_paths(expected)
