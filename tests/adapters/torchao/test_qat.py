"""prepare_qat_pt2e with our quantizers: batch norms and bounds learn."""

from collections.abc import Callable

import pytest
import torch
from helpers import networks
from torch import fx

pytest.importorskip("torchao")

from torchao.quantization.pt2e import (
    disable_observer,
    enable_fake_quant,
    move_exported_model_to_eval,  # pyright: ignore[reportPrivateUsage]
)
from torchao.quantization.pt2e.quantize_pt2e import prepare_qat_pt2e
from torchao.quantization.pt2e.quantizer import Quantizer
from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

from srptq_adapters.torchao import SRQuantizer, with_observer
from srptq_adapters.torchao.fake_quantize_class import TorchaoFakeQuantize

IMAGES = networks.images(4, seed=3)
CONFIG = x86.get_default_x86_inductor_quantization_config(is_qat=True)
QUANTIZERS: dict[str, Callable[[], Quantizer]] = {
    "ours": lambda: SRQuantizer.from_recipe("onnxruntime-w8a8-fast"),
    "within x86": lambda: with_observer(x86.X86InductorQuantizer().set_global(CONFIG), "dbdc"),
}


def calibrated(quantizer: str) -> fx.GraphModule:
    """A network with batch norms, in training mode, prepared and observed."""
    module = torch.export.export(networks.network("normed").train(), (IMAGES,)).module()
    prepared = prepare_qat_pt2e(module, QUANTIZERS[quantizer]())
    with torch.no_grad():
        prepared(IMAGES)
    prepared.apply(disable_observer)
    prepared.apply(enable_fake_quant)
    return prepared


def trained(prepared: fx.GraphModule, steps: int = 4) -> list[float]:
    """Train with plain torch. Returns the loss before each step, and after the last."""
    answers = networks.network("normed")(IMAGES).detach()
    optimizer = torch.optim.Adam([each for each in prepared.parameters() if each.requires_grad], 1e-3)
    losses: list[float] = []
    for _ in range(steps + 1):
        loss = (prepared(IMAGES) - answers).abs().mean()
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return losses


@pytest.mark.parametrize("quantizer", QUANTIZERS)
def test_every_bound_gets_a_gradient_and_the_loss_falls(quantizer: str) -> None:
    prepared = calibrated(quantizer)
    losses = trained(prepared)
    assert losses[-1] < losses[0]
    learning = [each for each in prepared.modules() if isinstance(each, TorchaoFakeQuantize) and not each.fixed]
    assert learning
    assert all(each.lower.grad is not None and each.upper.grad is not None for each in learning)
    assert any(bool((each.upper.grad != 0).any()) for each in learning if each.upper.grad is not None)


def test_statistics_of_batch_norms_move_until_the_model_evaluates() -> None:
    prepared = calibrated("within x86")
    before = prepared.get_buffer("body.0.1.running_mean").clone()
    trained(prepared)
    after = prepared.get_buffer("body.0.1.running_mean").clone()
    assert not torch.allclose(after, before)
    move_exported_model_to_eval(prepared)
    with torch.no_grad():
        prepared(IMAGES)
    assert torch.equal(prepared.get_buffer("body.0.1.running_mean"), after)
