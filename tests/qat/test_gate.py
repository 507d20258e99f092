"""DDTB's gates: against a plain transcription, their gradients, and their effect on bounds."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from srptq_plugin.qat.ddtb import SMALL, DdtbFakeQuantize, Gate
from srptq_plugin.quantization.grid import Bounds, IntGrid
from srptq_plugin.quantization.quantizer import Mode


def images(count: int = 3, channels: int = 4, seed: int = 0) -> Tensor:
    return torch.randn(count, channels, 5, 6, generator=torch.Generator().manual_seed(seed))


def quantizer(bits: int = 2, bounds: tuple[float, float] = (-1.0, 1.5), *, gate: Gate | None = None) -> Any:
    made = DdtbFakeQuantize("x", IntGrid(bits, float_zero_point=True))
    made.fixed, made.gate = False, gate
    made.set_bounds(Bounds.of(*bounds))
    made.set_mode(Mode.QUANTIZE)
    return made


def rounded(numbers: list[float]) -> list[float]:
    """Round to the four levels between the extremes."""
    low, high = min(numbers), max(numbers)
    step = (high - low) / 3 or 1.0
    return [low + round((x - low) / step) * step for x in numbers]


def transcribed(gate: Gate, image: Tensor) -> list[float]:
    """Compute a gate's logits for one image, in eval mode and plain float64."""

    def kernel(weight: Tensor) -> list[list[float]]:
        width, flat = weight.shape[1], rounded(weight.double().flatten().tolist())
        return [flat[n : n + width] for n in range(0, len(flat), width)]

    def applied(weight: Tensor, inputs: list[float]) -> list[float]:
        return [math.fsum(w * x for w, x in zip(row, rounded(inputs), strict=True)) for row in kernel(weight)]

    means = [math.fsum(channel.double().flatten().tolist()) / channel[0].numel() / len(channel) for channel in image]
    norm = [tensor.detach().double().tolist() for tensor in (gate.mean, gate.variance, gate.gain, gate.shift)]
    hidden = [
        max(0.0, (x - mean) / math.sqrt(variance + 1e-5) * gain + shift)
        for x, mean, variance, gain, shift in zip(applied(gate.narrow, means), *norm, strict=True)
    ]
    return applied(gate.widen, hidden)


@settings(max_examples=25)
@given(st.integers(0, 1000))
def test_gates_match_a_transcription(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    gate = Gate(4, seed).eval()
    gate.mean.copy_(0.1 * torch.randn(32, generator=generator))
    gate.variance.copy_(0.5 + torch.rand(32, generator=generator))
    values = images(seed=seed)
    for image, logits in zip(values, gate(values), strict=True):
        assert logits.tolist() == pytest.approx(transcribed(gate, image), abs=1e-4)


@settings(max_examples=25)
@given(st.integers(0, 1000), st.integers(1, 4))
def test_each_image_has_its_own_bounds(seed: int, bits: int) -> None:
    gate = Gate(4, seed).eval()
    gate.acts.fill_(value=True)
    values = images(seed=seed)
    output = quantizer(bits, gate=gate)(values).double()
    factors = 2 * gate(values).double().sigmoid()
    for image, out, (lower, upper) in zip(values.double(), output, factors.tolist(), strict=True):
        low, step = -lower, (1.5 * upper + lower) / (2**bits - 1)
        place = ((image - low) / step).clamp(0, 2**bits - 1)
        clear = (place - place.floor() - 0.5).abs() > 1e-4
        assert torch.allclose(out[clear], (low + place.round() * step)[clear], atol=1e-5)


def test_zero_logits_leave_the_bounds() -> None:
    gate = Gate(4)
    gate.widen.data.zero_()
    gate.acts.fill_(value=True)
    values = images()
    assert torch.allclose(quantizer(gate=gate)(values), quantizer()(values), atol=1e-6)


@pytest.mark.parametrize("training", [True, False])
def test_gradients_without_rounding_are_exact(training: bool) -> None:  # noqa: FBT001
    gate = Gate(4).double().train(training)
    gate.rounded = torch.nn.Identity()
    values = images().double()
    names = ["narrow", "widen", "gain", "shift"]

    def output(*parameters: Tensor) -> Tensor:
        state = dict(zip(names, parameters, strict=True)) | {
            name: buffer.clone() for name, buffer in gate.named_buffers()
        }
        return torch.func.functional_call(gate, state, (values,))

    parameters = [getattr(gate, name).detach().clone().requires_grad_() for name in names]
    assert torch.autograd.gradcheck(output, parameters)


def test_rounding_inside_a_gate_is_straight_through() -> None:
    gate, plain = Gate(4).eval(), Gate(4).eval()
    plain.rounded = lambda values: values + (gate.rounded(values) - values).detach()
    values, pulls = images(), torch.tensor([[1.0, 2.0], [3.0, -1.0], [0.5, 0.0]])
    for module in (gate, plain):
        module(values).backward(pulls)
    for one, other in zip(gate.parameters(), plain.parameters(), strict=True):
        assert one.grad is not None
        assert other.grad is not None
        assert torch.allclose(one.grad, other.grad, atol=1e-6)
        assert one.grad.abs().max() > 0


def test_gradients_reach_both_bounds_and_the_gate() -> None:
    gate = Gate(4).eval()
    gate.acts.fill_(value=True)
    made, values = quantizer(gate=gate), 2 * images().requires_grad_()
    lower, upper = (2 * gate(values).detach().double().sigmoid()).unbind(1)
    made(values).sum().backward()
    rows = values.detach().flatten(1)
    above, below = ((rows > 1.5 * upper[:, None]).sum(1), (rows < -lower[:, None]).sum(1))
    assert made.upper.grad is not None
    assert made.lower.grad is not None
    inside = rows.numel() - int(above.sum()) - int(below.sum())
    assert abs(made.upper.grad - (upper * above).sum()) < inside
    assert abs(made.lower.grad - (lower * below).sum()) < inside
    assert all(parameter.grad is not None for parameter in (gate.narrow, gate.widen, gate.gain, gate.shift))


def test_bypassed_gates_are_pulled_to_one() -> None:
    gate = Gate(4).train()
    gate.widen.data.div_(SMALL)
    made = quantizer(gate=gate).train()
    sizes = train_bypassed(made, 150, torch.optim.Adam(gate.parameters(), lr=3e-3))
    assert sizes[-1] < 0.05 * sizes[0]
    assert made.auxiliary_loss() is None
    made.on_progress(made.options.bypassed)
    made(images())
    assert made.auxiliary_loss() is None


@pytest.mark.parametrize("seed", range(4))
def test_short_trainings_pull_new_gates_to_one(seed: int) -> None:
    made = quantizer(gate=Gate(32, seed)).train()
    rates = [{"params": [parameter], "lr": rate} for parameter, rate in made.extra_parameters()]
    train_bypassed(made, 40, torch.optim.Adam(rates), channels=32)
    factors = 2 * made.gate(images(16, 32)).sigmoid()
    assert factors.tolist() == [pytest.approx([1.0, 1.0], abs=0.03)] * 16


def train_bypassed(made: Any, steps: int, optimizer: torch.optim.Optimizer, channels: int = 4) -> list[float]:
    """Train a bypassed gate. Return the auxiliary loss of each step."""
    values, sizes = images(16, channels), list[float]()
    for _ in range(steps):
        made.on_progress(0.0)
        assert torch.equal(made(values), quantizer()(values))
        pull = made.auxiliary_loss()
        assert pull is not None
        sizes.append(pull.item())
        optimizer.zero_grad()
        pull.backward()
        optimizer.step()
    return sizes


def test_a_batch_of_one_image() -> None:
    gate = Gate(4).train()
    assert gate(images(1)).isfinite().all()
    assert gate.mean.abs().max() == 0


def test_state_holds_bounds_and_gate() -> None:
    one, other = quantizer(gate=Gate(4, seed=3)), quantizer(bounds=(-2.0, 2.0))
    one.gate.acts.fill_(value=True)
    one.upper.data.mul_(1.7)
    for state in (one.state_dict(), one.state()):
        other.load_state_dict(state)
        assert torch.equal(one.eval()(images()), other.eval()(images()))
    assert one.state().keys() == one.state_dict().keys()
