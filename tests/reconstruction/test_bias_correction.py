"""Bias correction: the float network's mean in every output channel."""

from typing import Any

import pytest
import torch
from helpers import networks
from torch import Tensor

from srptq_plugin.errors import SrptqError
from srptq_plugin.graph.network import Network
from srptq_plugin.planning.prepared_graph import PreparedGraph
from srptq_plugin.plugins.bound_recipe import BoundRecipe
from srptq_plugin.plugins.registry import Registry
from srptq_plugin.quantization.quantizer import Mode
from srptq_plugin.reconstruction.bias_correction import correct_biases
from srptq_plugin.reconstruction.pac import reconstruct

IMAGES = networks.images(8, seed=3)


def means(prepared: PreparedGraph, mode: Mode) -> dict[str, Tensor]:
    """Average the output of each convolution, with every node run by hand."""
    network, averages = Network(prepared.capture), dict[str, Tensor]()
    with prepared.mode(mode), torch.no_grad():
        known: dict[torch.fx.Node, Any] = {}
        for node in prepared.capture.graph.nodes:
            arguments = torch.fx.map_arg(node.args, known.__getitem__)
            if node.op == "placeholder":
                known[node] = IMAGES
            elif node.op == "get_attr":
                owner, _, leaf = str(node.target).rpartition(".")
                known[node] = getattr(prepared.capture.get_submodule(owner), leaf)
            elif node.op == "call_module":
                known[node] = prepared.capture.get_submodule(str(node.target))(*arguments)
            elif node.op == "call_function":
                known[node] = node.target(*arguments, **node.kwargs)
            if node in network.keys and network.name(node) in prepared.biases:
                averages[network.name(node)] = known[node].mean((0, 2, 3))
    return averages


@pytest.mark.parametrize("kind", ["edsr", "imdn", "mixed"])
def test_channel_means_become_the_float_networks(kind: str) -> None:
    prepared = networks.calibrated(kind, 3, "onnxruntime")
    expected, before = means(prepared, Mode.OFF), means(prepared, Mode.QUANTIZE)
    correct_biases(prepared, IMAGES)
    after = means(prepared, Mode.QUANTIZE)
    assert set(expected) == set(prepared.plan.convs)
    assert max(float((before[conv] - expected[conv]).abs().max()) for conv in expected) > 1e-2
    for conv in expected:
        assert torch.allclose(after[conv], expected[conv], atol=1e-4)


def test_bias_correction_is_a_reconstruction_itself() -> None:
    corrected, tuned = (networks.calibrated("edsr", 3, "onnxruntime") for _ in range(2))
    correct_biases(corrected, IMAGES)
    tune = Registry().reconstruction("bias-correction").load()
    assert tune(tuned, IMAGES, seed=1) == {"corrected": len(corrected.biases)}
    assert all(torch.equal(corrected.biases[conv], bias) for conv, bias in tuned.biases.items())
    with pytest.raises(SrptqError, match=r"reconstruction\.epochs: unknown key; there are none here"):
        BoundRecipe.of(networks.recipe(reconstruction={"name": "bias-correction", "epochs": 1}), Registry())


def test_calls_of_one_module_are_corrected_together() -> None:
    prepared = networks.calibrated("shared", 3, "onnxruntime")
    teacher = prepared.float_forward(IMAGES)[0]
    before = prepared.noise(IMAGES, teacher)
    correct_biases(prepared, IMAGES)
    assert set(prepared.tuned_biases()) == set(prepared.plan.convs)
    assert prepared.noise(IMAGES, teacher) < 0.9 * before


def test_pac_corrects_biases_and_reports_it() -> None:
    stages: list[str] = []
    still: dict[str, Any] = {"epochs": 1, "activation_rate": 0.0, "weight_rate": 0.0}
    losses = [
        reconstruct(
            networks.calibrated("edsr", 3, "onnxruntime"),
            IMAGES,
            progress=lambda stage, _done, _total: stages.append(stage),
            bias_correction=corrected,
            **still,
        )["loss_after"]
        for corrected in (False, True)
    ]
    assert losses[1] < 0.99 * losses[0]
    assert "correcting biases" in stages


def test_a_correction_without_gain_is_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    def spoil(prepared: PreparedGraph, _images: Tensor) -> None:
        for bias in prepared.biases.values():
            bias.data += 1.0

    monkeypatch.setattr("srptq_plugin.reconstruction.pac.correct_biases", spoil)
    prepared = networks.calibrated("edsr", 4, "onnxruntime")
    reconstruct(prepared, IMAGES, epochs=1, bias_correction=True)
    assert not prepared.tuned_biases()
