"""What is rounded again in the backward pass is what was rounded in the forward, and is not kept meanwhile."""

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
    """Of all bounds and weights."""
    learns = [each for each in prepared.module.parameters() if each.requires_grad]
    with within:
        output, maps = prepared.features(IMAGES)
    loss = sum((each.square().mean() for each in maps), output.abs().mean())
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
        kept, recomputed = (gradients(prepared, each) for each in (nullcontext(), RecomputeActivations(prepared)))
    assert len(kept) > len(prepared.plan.convs)
    assert all(map(torch.equal, kept, recomputed))


def test_what_convolutions_read_is_not_kept() -> None:
    prepared = networks.calibrated("edsr", 4, "paper")
    prepared.set_mode(Mode.QUANTIZE)
    given: list[StorageWeakRef] = []

    def watch(_quantizer: nn.Module, _read: object, output: Tensor) -> None:
        given.append(StorageWeakRef(output.untyped_storage()))

    learning = [each for each in prepared.of_role("activation").values() if not each.fixed]
    for quantizer in learning:
        quantizer.register_forward_hook(watch)
    with RecomputeActivations(prepared):
        features = prepared.features(IMAGES)
    assert len(given) == len(learning) > 2
    assert all(each.expired() for each in given)
    given.clear()
    features = prepared.features(IMAGES)
    assert not any(each.expired() for each in given)
    assert features[0].requires_grad


def test_a_forward_without_its_backward_leaves_nothing() -> None:
    prepared = networks.calibrated("edsr", 4, "paper")
    prepared.set_mode(Mode.QUANTIZE)
    kept: list[StorageWeakRef] = []

    def watch(_quantizer: nn.Module, read: tuple[Tensor], _output: Tensor) -> None:
        kept.append(StorageWeakRef(read[0].untyped_storage()))

    for quantizer in prepared.of_role("activation").values():
        if not quantizer.fixed:
            quantizer.register_forward_hook(watch)
    with RecomputeActivations(prepared):
        features = prepared.features(IMAGES)
    assert not any(each.expired() for each in kept)
    del features
    assert all(each.expired() for each in kept)
