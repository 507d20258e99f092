"""Recomputed convolution inputs: the gradients have the same bits, and the tensors are freed after the forward."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
from helpers import networks
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from srptq_plugin.planning.prepared_graph import PreparedGraph
from srptq_plugin.quantization.quantizer import Gradient, Mode
from srptq_plugin.reconstruction.learning import BOTH, Learning, Rates
from srptq_plugin.reconstruction.recompute import RecomputeActivations

IMAGES = networks.images(2, seed=3)


def gradients(prepared: PreparedGraph, within: AbstractContextManager[Any]) -> list[Tensor]:
    """Return the gradients of all bounds and weights."""
    learns = [parameter for parameter in prepared.module.parameters() if parameter.requires_grad]
    with within:
        output, maps = prepared.features(IMAGES)
    loss = sum((features.square().mean() for features in maps), output.abs().mean())
    return list(torch.autograd.grad(loss, learns))


@pytest.mark.parametrize("gradient", ["full", "pact"])
@pytest.mark.parametrize(("name", "target"), [("edsr", "onnxruntime"), ("mixed", "openvino"), ("imdn", "tensorrt")])
def test_gradients_have_the_same_bits(name: str, target: str, gradient: Gradient) -> None:
    prepared = networks.calibrated(name, 8 if target == "tensorrt" else 4, target)
    prepared.set_mode(Mode.QUANTIZE)
    for quantizer in prepared.quantizers.values():
        quantizer.gradient = gradient
    with Learning(prepared, Rates(1e-3, 1e-3, "relative", 0.02), "free") as learning:
        learning.take_turns(BOTH)
        saved = gradients(prepared, nullcontext())
        recomputed = gradients(prepared, RecomputeActivations(prepared))
    assert len(saved) > len(prepared.plan.convs)
    assert all(map(torch.equal, saved, recomputed))


def test_convolution_inputs_are_freed_after_the_forward() -> None:
    prepared = networks.calibrated("edsr", 4, "paper")
    prepared.set_mode(Mode.QUANTIZE)
    outputs: list[StorageWeakRef] = []

    def watch(_quantizer: nn.Module, _inputs: object, output: Tensor) -> None:
        outputs.append(StorageWeakRef(output.untyped_storage()))

    learning = [quantizer for quantizer in prepared.of_role("activation").values() if not quantizer.fixed]
    for quantizer in learning:
        quantizer.register_forward_hook(watch)
    with RecomputeActivations(prepared):
        features = prepared.features(IMAGES)
    assert len(outputs) == len(learning) > 2
    assert all(output.expired() for output in outputs)
    outputs.clear()
    features = prepared.features(IMAGES)
    assert not any(output.expired() for output in outputs)
    assert features[0].requires_grad


def test_forwards_without_a_backward_leave_nothing() -> None:
    prepared = networks.calibrated("edsr", 4, "paper")
    prepared.set_mode(Mode.QUANTIZE)
    inputs: list[StorageWeakRef] = []

    def watch(_quantizer: nn.Module, read: tuple[Tensor], _output: Tensor) -> None:
        inputs.append(StorageWeakRef(read[0].untyped_storage()))

    for quantizer in prepared.of_role("activation").values():
        if not quantizer.fixed:
            quantizer.register_forward_hook(watch)
    with RecomputeActivations(prepared):
        features = prepared.features(IMAGES)
    assert not any(tensor.expired() for tensor in inputs)
    del features
    assert all(tensor.expired() for tensor in inputs)
