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
    """Prepare a network with batch norms in training mode, and let it observe."""
    module = torch.export.export(networks.network("normed").train(), (IMAGES,)).module()
    prepared = prepare_qat_pt2e(module, QUANTIZERS[quantizer]())
    with torch.no_grad():
        prepared(IMAGES)
    prepared.apply(disable_observer)
    prepared.apply(enable_fake_quant)
    return prepared


def trained(prepared: fx.GraphModule, steps: int = 4) -> list[float]:
    """Train with plain torch. Return the loss before each step, and after the last."""
    answers = networks.network("normed")(IMAGES).detach()
    optimizer = torch.optim.Adam([parameter for parameter in prepared.parameters() if parameter.requires_grad], 1e-3)
    losses: list[float] = []
    for _ in range(steps + 1):
        loss = (prepared(IMAGES) - answers).abs().mean()
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return losses


@pytest.mark.parametrize("quantizer", QUANTIZERS)
def test_all_bounds_learn_and_the_loss_falls(quantizer: str) -> None:
    prepared = calibrated(quantizer)
    losses = trained(prepared)
    assert losses[-1] < losses[0]
    learning = [module for module in prepared.modules() if isinstance(module, TorchaoFakeQuantize) and not module.fixed]
    assert learning
    assert all(quantizer.lower.grad is not None and quantizer.upper.grad is not None for quantizer in learning)
    assert any(bool((quantizer.upper.grad != 0).any()) for quantizer in learning if quantizer.upper.grad is not None)


def test_batch_norm_statistics_move_in_training_only() -> None:
    prepared = calibrated("within x86")
    before = prepared.get_buffer("body.0.1.running_mean").clone()
    trained(prepared)
    after = prepared.get_buffer("body.0.1.running_mean").clone()
    assert not torch.allclose(after, before)
    move_exported_model_to_eval(prepared)
    with torch.no_grad():
        prepared(IMAGES)
    assert torch.equal(prepared.get_buffer("body.0.1.running_mean"), after)
