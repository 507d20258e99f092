"""Quantizers and their gradients against float64 transcriptions and finite differences. States. Resuming."""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import networks
from helpers.trainings import begun, everything, interrupted
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import functional_call

from srptq_plugin.qat.daq import DaqFakeQuantize, MixedDaqFakeQuantize
from srptq_plugin.qat.ddtb import DdtbFakeQuantize
from srptq_plugin.qat.dynamic import LinearFakeQuantize
from srptq_plugin.qat.fqsr import FqsrFakeQuantize
from srptq_plugin.qat.pams import PamsFakeQuantize, transfer_loss
from srptq_plugin.qat.training import Training
from srptq_plugin.quantization.grid import Bounds, IntGrid
from srptq_plugin.quantization.quantizer import BoundedFakeQuantize, Mode

SIGNED = IntGrid(4, signed=True, symmetric=True, narrow_range=True)
REAL = IntGrid(4, float_zero_point=True)
Kind = type[BoundedFakeQuantize]


def make(kind: Kind, grid: IntGrid, lower: float, upper: float, **keys: Any) -> Any:
    quantizer = kind("x", grid, **keys)
    quantizer.fixed = not quantizer.learns
    quantizer.set_bounds(Bounds.of(lower, upper))
    quantizer.set_mode(Mode.QUANTIZE)
    return quantizer


def leaf(value: Tensor) -> Tensor:
    return value.detach().double().clone().requires_grad_()


def clipped(values: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    return torch.minimum(torch.maximum(values, lower), upper)


def equation_1(values: Tensor, lower: Tensor, upper: Tensor, bits: int) -> Tensor:
    """Clip, round to 2^b - 1 steps from the lower bound, scale back. Rounding passes gradients straight through."""
    step = (upper - lower) / (2**bits - 1)
    place = (clipped(values, lower, upper) - lower) / step
    return lower + (place + (place.round() - place).detach()) * step


def drawn(lower: Tensor, upper: Tensor, bits: int, seed: int, shape: tuple[int, ...] = (64,)) -> Tensor:
    """Draw values within and beyond, none near a tie or within half a step beyond, which torch does not clip."""
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    step = (upper - lower) / (2**bits - 1)
    place = ((noise * (upper - lower) + upper + lower) / 2 - lower) / step
    near = (place - place.floor() - 0.5).abs() < 0.02
    beyond = (place < 0) & (place > -0.6) | (place > 2**bits - 1) & (place < 2**bits - 0.4)
    return lower + torch.where(near | beyond, 0.2, place) * step


def agree(output: Tensor, own: Tensor, expected: Tensor, plain: Tensor, seed: int) -> None:
    """Compare values, and gradients to the inputs `own` and `plain`, for random gradients of the outputs."""
    pulls = torch.randn(output.shape, generator=torch.Generator().manual_seed(seed + 1))
    (expected * pulls.double()).sum().backward()
    (output * pulls).sum().backward()
    torch.testing.assert_close(output.double(), expected, rtol=1e-4, atol=1e-5 * float(expected.detach().abs().max()))
    assert own.grad is not None
    assert plain.grad is not None
    torch.testing.assert_close(own.grad.double(), plain.grad)


def close(actual: Tensor | None, expected: Tensor | None) -> None:
    assert actual is not None
    assert expected is not None
    torch.testing.assert_close(actual.double(), expected, rtol=1e-3, atol=1e-3)


@given(st.floats(-5, 1), st.floats(0.1, 10), st.integers(1, 8), st.integers(0, 100))
def test_bounded_is_equation_1(lower: float, width: float, bits: int, seed: int) -> None:
    quantizer = make(BoundedFakeQuantize, IntGrid(bits, float_zero_point=True), lower, lower + width)
    ends = leaf(quantizer.lower), leaf(quantizer.upper)
    plain = leaf(drawn(*ends, bits, seed))
    own = plain.detach().float().requires_grad_()
    agree(quantizer(own), own, equation_1(plain, *ends, bits), plain, seed)
    close(quantizer.lower.grad, ends[0].grad)
    close(quantizer.upper.grad, ends[1].grad)


@given(st.floats(0.1, 50), st.integers(2, 8), st.integers(0, 100))
def test_pams_clips_at_alpha(alpha: float, bits: int, seed: int) -> None:
    quantizer = make(PamsFakeQuantize, SIGNED.at(bits), -0.3 * alpha, alpha)
    end = leaf(quantizer.upper)
    steps = 2 ** (bits - 1) - 1
    exact = 2 * alpha * torch.randn(64, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    near = ((exact * steps / alpha) % 1 - 0.5).abs() < 0.02
    plain = leaf(torch.where(near, 0.2 * alpha / steps, exact))
    own = plain.detach().float().requires_grad_()
    inside = clipped(plain, -end, end)
    expected = inside + ((inside * steps / end).round() * end / steps - inside).detach()
    agree(quantizer(own), own, expected, plain, seed)
    close(quantizer.upper.grad, end.grad)
    assert quantizer.lower.grad is None


class ConstantGate(nn.Module):
    """A gate with given logits."""

    acts: Tensor

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits)
        self.register_buffer("acts", torch.tensor(1, dtype=torch.bool))

    def forward(self, _values: Tensor) -> Tensor:
        return self.logits


@given(st.floats(-5, -0.1), st.floats(0.1, 5), st.integers(1, 4), st.integers(0, 100))
def test_ddtb_is_equation_1_with_scaled_bounds(lower: float, upper: float, bits: int, seed: int) -> None:
    quantizer = make(DdtbFakeQuantize, IntGrid(bits, float_zero_point=True), lower, upper)
    logits = torch.randn(3, 2, generator=torch.Generator().manual_seed(seed))
    quantizer.gate = ConstantGate(logits)
    ends, exact = (leaf(quantizer.lower), leaf(quantizer.upper)), leaf(logits)
    low, high = ((end * 2 * torch.sigmoid(exact[:, n]))[:, None, None, None] for n, end in enumerate(ends))
    plain = leaf(drawn(low, high, bits, seed, (3, 2, 5, 6)))
    own = plain.detach().float().requires_grad_()
    agree(quantizer(own), own, equation_1(plain, low, high, bits), plain, seed)
    close(quantizer.lower.grad, ends[0].grad)
    close(quantizer.upper.grad, ends[1].grad)
    close(quantizer.gate.logits.grad, exact.grad)


@pytest.mark.parametrize(
    ("kind", "grid", "names"),
    [
        (BoundedFakeQuantize, REAL, ("lower", "upper")),
        (DdtbFakeQuantize, REAL, ("lower", "upper")),
        (PamsFakeQuantize, SIGNED, ("upper",)),
        (FqsrFakeQuantize, SIGNED, ("upper",)),
    ],
)
def test_gradients_of_clipped_values_are_exact(kind: Kind, grid: IntGrid, names: tuple[str, ...]) -> None:
    """Compare with finite differences, which fit where no rounding is in the way."""
    quantizer = make(kind, grid, -1.0, 1.0)
    values = torch.tensor([-9.0, -2.0, 2.0, 3.0, 9.0])

    def output(*ends: Tensor) -> Tensor:
        return functional_call(quantizer, dict(zip(names, ends, strict=True)), (values,)).double()

    ends = [leaf(getattr(quantizer, name)) for name in names]
    assert torch.autograd.gradcheck(output, ends, eps=1e-2, atol=1e-3, check_undefined_grad=False)


def test_gates_have_exact_gradients() -> None:
    quantizer = make(DdtbFakeQuantize, REAL, -1.0, 1.0)
    quantizer.gate = ConstantGate(torch.zeros(2, 2))
    values = 5 * torch.tensor([[-1.0, 1.0, 2.0], [-3.0, -2.0, 1.0]]).reshape(2, 3, 1, 1)

    def output(logits: Tensor) -> Tensor:
        return functional_call(quantizer, {"gate.logits": logits}, (values,)).double()

    assert torch.autograd.gradcheck(
        output, [leaf(torch.tensor([[0.3, -0.5], [0.0, 0.9]]))], eps=1e-3, atol=2e-3, check_undefined_grad=False
    )


def test_transfer_loss_has_exact_gradients() -> None:
    maps = [torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(n), dtype=torch.float64) for n in (0, 1)]
    assert torch.autograd.gradcheck(transfer_loss, [maps[0].requires_grad_(), maps[1]])


@pytest.mark.parametrize("axis", [None, 0])
@given(bits=st.integers(1, 8), seed=st.integers(0, 100))
def test_linear_weights_lie_between_their_extremes(axis: int | None, bits: int, seed: int) -> None:
    weight = torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(seed))
    quantizer = make(
        LinearFakeQuantize, IntGrid(bits, channel_axis=axis, float_zero_point=True), -1.0, 1.0, constant=True
    )
    rows = weight.double().flatten(1) if axis == 0 else weight.double().reshape(1, -1)
    low, high = rows.amin(1, keepdim=True), rows.amax(1, keepdim=True)
    expected = equation_1(rows, low, high, bits)
    place = (rows - low) / (high - low) * (2**bits - 1)
    clear = (place - place.floor() - 0.5).abs() > 1e-3
    output = quantizer(weight).double().reshape(rows.shape)
    torch.testing.assert_close(output[clear], expected[clear], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", [DaqFakeQuantize, MixedDaqFakeQuantize, LinearFakeQuantize])
def test_state_of_dynamic_quantizers_is_their_bounds(kind: Kind) -> None:
    """Load states: for a map they say whether it comes after a ReLU, for a weight they hold the levels."""
    maps = networks.images(3, seed=2)
    one, other = make(kind, REAL, 0.0, 1.0), make(kind, REAL, -3.0, 3.0)
    for state in (one.state_dict(), one.state()):
        other.set_bounds(Bounds.of(-3.0, 3.0))
        other.load_state_dict(state)
        assert torch.equal(one(maps), other(maps))
        assert (one.bounds.lower, one.bounds.upper) == (other.bounds.lower, other.bounds.upper)
        assert not other.upper.requires_grad
    weights = make(kind, REAL, -1.0, 1.0, constant=True), make(kind, REAL, -3.0, 3.0, constant=True)
    weights[0].refresh(torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(1)))
    weights[1].load_state_dict(weights[0].state_dict())
    assert torch.equal(weights[0].qparams().scale, weights[1].qparams().scale)
    assert torch.equal(weights[0].qparams().zero_point, weights[1].qparams().zero_point)


RESUMED = ["bounded", "pams", "daq", "daq-m", "linear"]
"""Kinds whose resuming is tested here. FQSR and DDTB have tests of their own."""


def started(kind: str) -> Training:
    weights = {"quantizer": kind.removesuffix("-m")} if kind not in ("bounded", "pams") else {}
    recipe = networks.recipe(3, "paper", activations={"quantizer": kind}, placement="convs")
    recipe = recipe.model_copy(update={"weights": recipe.weights.model_copy(update=weights)})
    return begun(networks.realize("edsr", networks.plan("edsr", recipe)))


@pytest.mark.parametrize("kind", RESUMED)
def test_an_interrupted_training_ends_with_the_same_bits(kind: str, tmp_path: Path) -> None:
    before = everything(started(kind))
    whole, second = interrupted(lambda: started(kind), tmp_path)
    assert all(map(torch.equal, everything(whole), everything(second)))
    assert not all(map(torch.equal, before, everything(whole)))
    assert whole.score == second.score
