"""PAMS against a plain transcription of its equations, and by name in both toolkits."""

import pytest
import torch
from helpers import networks
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import srptq_plugin
from srptq_plugin.plugins.registry import Registry
from srptq_plugin.qat.pams import PamsFakeQuantize, transfer_loss
from srptq_plugin.qat.training import Training
from srptq_plugin.quantization.grid import Bounds, IntGrid
from srptq_plugin.quantization.quantizer import BoundedFakeQuantize, Mode
from srptq_plugin.recipes.schema import TrainingSettings

IMAGES = networks.images(12, 12, 12, seed=5)


def quantizer(alpha: float, bits: int = 4) -> PamsFakeQuantize:
    made = PamsFakeQuantize("x", IntGrid(bits, signed=True, symmetric=True, narrow_range=True))
    made.fixed = False
    made.set_bounds(Bounds.of(-0.3 * alpha, alpha))
    made.set_mode(Mode.QUANTIZE)
    return made


def transcribed(values: Tensor, alpha: float, bits: int) -> Tensor:
    """Clip and round in float64."""
    steps = 2 ** (bits - 1) - 1
    return (values.double().clamp(-alpha, alpha) * steps / alpha).round() * alpha / steps


@given(st.floats(0.1, 50.0), st.integers(2, 8), st.integers(0, 100))
def test_values_match_the_paper(alpha: float, bits: int, seed: int) -> None:
    values = 2 * alpha * torch.randn(64, generator=torch.Generator().manual_seed(seed))
    made = quantizer(alpha, bits)
    exact = values.double() * (2 ** (bits - 1) - 1) / alpha
    clear = ((exact - exact.floor() - 0.5).abs() > 1e-4) | (exact.abs() >= 2 ** (bits - 1) - 1)
    output, expected = made(values).double(), transcribed(values, alpha, bits)
    assert torch.allclose(output[clear], expected[clear], rtol=1e-5, atol=1e-6 * alpha)


def test_only_clipped_values_move_the_maximum() -> None:
    made = quantizer(1.0)
    values = torch.tensor([-3.0, -1.5, -0.4, 0.2, 0.9, 2.0], requires_grad=True)
    pulls = torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0, 32.0])
    (made(values) * pulls).sum().backward()
    assert made.upper.grad is not None
    assert made.upper.grad.item() == pytest.approx(32 - 1 - 2)
    assert made.lower.grad is None
    assert values.grad is not None
    assert values.grad.tolist() == [0, 0, 4, 8, 16, 0]


def test_state_is_the_maximum() -> None:
    one, other = quantizer(1.0), quantizer(7.0)
    one.upper.data.mul_(1.5)
    other.load_state_dict(one.state_dict())
    assert torch.equal(one.qparams().scale, other.qparams().scale)
    assert other.bounds.lower.item() == pytest.approx(-1.5)


@pytest.mark.parametrize("toolkit", ["torchao", "mqbench"])
def test_recipe_names_it_and_it_trains(toolkit: str) -> None:
    pytest.importorskip(toolkit)
    recipe = networks.recipe(4, "onnxruntime", activations={"bits": 4, "quantizer": "pams"})
    prepared = Registry().toolkit(toolkit).load().realize(networks.exported("edsr"), networks.plan("edsr", recipe))
    prepared.observe([IMAGES])
    kinds = {name: type(quantizer) for name, quantizer in prepared.quantizers.items()}
    assert issubclass(kinds["body.0/relu"], PamsFakeQuantize)
    assert not issubclass(kinds["head.weight"], PamsFakeQuantize)
    assert not issubclass(kinds["sub_mean/conv"], PamsFakeQuantize)
    start = prepared.quantizers["body.0/relu"].upper.item()
    log = srptq_plugin.train(prepared.module, IMAGES, steps=30, every=15, average=0.9, value_rate=0.05, bound_rate=3e-3)
    assert max(record.psnr for record in log) > log[0].psnr
    assert prepared.quantizers["body.0/relu"].upper.item() != start
    bounds = prepared.quantizers["body.0/relu"].bounds
    assert torch.equal(bounds.lower, -bounds.upper)


def test_any_observer_can_start_it() -> None:
    recipe = networks.recipe(8, "paper", activations={"observer": "dbdc", "quantizer": "pams"})
    plain = networks.recipe(8, "paper", activations={"observer": "dbdc"})
    pams, bounded = (networks.realize("edsr", networks.plan("edsr", chosen)) for chosen in (recipe, plain))
    for prepared in (pams, bounded):
        prepared.observe([IMAGES])
    for name, quantizer in pams.of_role("activation").items():
        if isinstance(quantizer, PamsFakeQuantize):
            start: BoundedFakeQuantize = bounded.quantizers[name]
            assert quantizer.upper.item() == pytest.approx(max(-start.lower.item(), start.upper.item()), rel=1e-5)


def test_transfer_loss_matches_the_paper() -> None:
    one, other = networks.images(3, seed=1).requires_grad_(), networks.images(3, seed=2)
    energies = [(maps.detach().double() ** 2).sum(1).flatten(1) for maps in (one, other)]
    unit = [energy / energy.norm(dim=1, keepdim=True) for energy in energies]
    loss = transfer_loss(one, other)
    assert loss.item() == pytest.approx((unit[0] - unit[1]).norm(dim=1).mean().item(), rel=1e-4)
    (gradient,) = torch.autograd.grad(loss, one)
    assert gradient.abs().max() > 0
    (still,) = torch.autograd.grad(transfer_loss(one, one.detach()), one)
    assert still.isfinite().all()


def test_training_adds_the_transfer_loss() -> None:
    prepared = networks.calibrated("edsr", 3, "onnxruntime")
    plain, with_transfer = (
        Training(prepared, TrainingSettings(steps=2, transfer=weight), 1.0) for weight in (0.0, 50.0)
    )
    batch = IMAGES[:2], prepared.float_forward(IMAGES[:2])[0]
    with torch.no_grad():
        losses = [training._loss(batch).item() for training in (plain, with_transfer)]  # pyright: ignore[reportPrivateUsage]
        maps, targets = prepared.features(batch[0])[1], prepared.float_forward(batch[0])[1]
        assert losses[1] - losses[0] == pytest.approx(50 * transfer_loss(maps[-1], targets[-1]).item(), rel=1e-4)
