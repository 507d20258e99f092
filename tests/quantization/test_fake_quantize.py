"""Rounding in chunks against rounding at once, and computing it again."""

import pytest
import torch
from torch import Tensor

from srptq_plugin.quantization.fake_quantize import Gradient, fake_quantize, fake_quantize_pact, recompute_fn
from srptq_plugin.quantization.grid import Bounds, IntGrid, dequantize, project, quantize

MANY = 3 * 2**17 + 5
GRIDS = [IntGrid(4), IntGrid(8, signed=True, symmetric=True), IntGrid(4, float_zero_point=True)]


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*(shape or (MANY,)), generator=torch.Generator().manual_seed(seed))


def pulled(values: Tensor, pull: Tensor, grid: IntGrid) -> tuple[Tensor, ...]:
    """Return the gradients of the values and of both bounds."""
    values = values.detach().requires_grad_()
    ends = [torch.tensor(end, dtype=torch.float64, requires_grad=True) for end in (-1.3, 1.7)]
    rounded = fake_quantize(values, project(Bounds(*ends), grid))
    return torch.autograd.grad((rounded * pull).sum(), [values, *ends])


@pytest.mark.parametrize("grid", GRIDS)
def test_chunks_do_not_change_a_bit(grid: IntGrid) -> None:
    qparams = project(Bounds.of(-1.3, 1.7), grid)
    assert torch.equal(fake_quantize(normal(0), qparams), dequantize(quantize(normal(0), qparams), qparams))


@pytest.mark.parametrize("grid", GRIDS)
def test_gradients_are_sums_over_chunks(grid: IntGrid) -> None:
    whole = pulled(normal(0), normal(1), grid)
    parts = [pulled(*chunk, grid) for chunk in zip(normal(0).split(1000), normal(1).split(1000), strict=True)]
    assert torch.equal(whole[0], torch.cat([part[0] for part in parts]))
    for number in (1, 2):
        torch.testing.assert_close(whole[number], sum(part[number] for part in parts), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("grid", GRIDS)
def test_tensors_that_are_not_contiguous(grid: IntGrid) -> None:
    values, pull = normal(0, 300, 1000).t(), normal(1, 1000, 300)
    for scattered, dense in zip(pulled(values, pull, grid), pulled(values.contiguous(), pull, grid), strict=True):
        torch.testing.assert_close(scattered, dense, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("gradient", ["full", "pact"])
def test_rounded_tensors_are_recomputed_bit_for_bit(gradient: Gradient) -> None:
    bounds = Bounds.of(-1.3, 1.7)
    qparams, values = project(bounds, IntGrid(4)), normal(0).requires_grad_()
    full = gradient == "full"
    rounded = fake_quantize(values, qparams) if full else fake_quantize_pact(values, bounds, qparams)
    recompute = recompute_fn(rounded)
    assert recompute is not None
    assert torch.equal(recompute(), rounded)
    assert not recompute().requires_grad


def test_other_tensors_are_not_recomputed() -> None:
    assert recompute_fn(normal(0).requires_grad_() * 2) is None
    assert recompute_fn(fake_quantize(normal(0), project(Bounds.of(-1.0, 1.0), IntGrid(4)))) is None
