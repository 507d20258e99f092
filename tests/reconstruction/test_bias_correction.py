"""Bias correction: means as the float network has them."""

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
    """By hand: the output of each convolution's layer, averaged."""
    network, found = Network(prepared.capture), dict[str, Tensor]()
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
                found[network.name(node)] = known[node].mean((0, 2, 3))
    return found


@pytest.mark.parametrize("kind", ["edsr", "imdn", "mixed"])
def test_the_mean_of_every_channel_is_the_float_networks(kind: str) -> None:
    prepared = networks.calibrated(kind, 3, "onnxruntime")
    wanted, before = means(prepared, Mode.OFF), means(prepared, Mode.QUANTIZE)
    correct_biases(prepared, IMAGES)
    after = means(prepared, Mode.QUANTIZE)
    assert set(wanted) == set(prepared.plan.convs)
    assert max(float((before[conv] - wanted[conv]).abs().max()) for conv in wanted) > 1e-2
    for conv in wanted:
        assert torch.allclose(after[conv], wanted[conv], atol=1e-4)


def test_it_is_a_reconstruction_of_its_own() -> None:
    one, other = (networks.calibrated("edsr", 3, "onnxruntime") for _ in range(2))
    correct_biases(one, IMAGES)
    tune = Registry().reconstruction("bias-correction").load()
    assert tune(other, IMAGES, seed=1) == {"corrected": len(one.biases)}
    assert all(torch.equal(one.biases[conv], bias) for conv, bias in other.biases.items())
    with pytest.raises(SrptqError, match=r"reconstruction\.epochs: unknown key; there are none here"):
        BoundRecipe.of(networks.recipe(reconstruction={"name": "bias-correction", "epochs": 1}), Registry())


def test_what_one_module_does_twice_is_corrected_as_one() -> None:
    prepared = networks.calibrated("shared", 3, "onnxruntime")
    correct_biases(prepared, IMAGES)
    assert set(prepared.tuned_biases()) == set(prepared.plan.convs)
    assert prepared(IMAGES).isfinite().all()


def test_pac_corrects_before_it_tunes_and_tells() -> None:
    said: list[str] = []
    still: dict[str, Any] = {"epochs": 1, "activation_rate": 0.0, "weight_rate": 0.0}
    found = [
        reconstruct(
            networks.calibrated("edsr", 3, "onnxruntime"),
            IMAGES,
            progress=lambda what, _done, _total: said.append(what),
            bias_correction=corrected,
            **still,
        )
        for corrected in (False, True)
    ]
    assert found[1]["loss_after"] < 0.99 * found[0]["loss_after"]
    assert "correcting biases" in said


def test_a_correction_that_does_not_help_is_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    def spoil(prepared: PreparedGraph, _images: Tensor) -> None:
        for bias in prepared.biases.values():
            bias.data += 1.0

    monkeypatch.setattr("srptq_plugin.reconstruction.pac.correct_biases", spoil)
    prepared = networks.calibrated("edsr", 4, "onnxruntime")
    reconstruct(prepared, IMAGES, epochs=1, bias_correction=True)
    assert not prepared.tuned_biases()
