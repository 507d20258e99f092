"""Weights whose pairs of products cannot overflow, whatever the activations, against an emulated kernel."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from helpers import saturating
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes
from torch import Tensor

from srptq_plugin.quantization.grid import Bounds, IntGrid, QParams, project, quantize
from srptq_plugin.quantization.quantizer import BoundedFakeQuantize, Mode
from srptq_plugin.quantization.saturation import MARGIN, fit_, pair_limit, pair_sums, safe

GRID = IntGrid(8, signed=True, symmetric=True, narrow_range=True, channel_axis=0, pair_limit=128)
WHOLE = IntGrid(8, signed=True, symmetric=True, narrow_range=True, pair_limit=128)
SHAPES = array_shapes(min_dims=4, max_dims=4, max_side=5)


def drawn(shape: tuple[int, ...], seed: int, tail: float) -> Tensor:
    """Draw weights: all alike for a small `tail`, a few large among many small for a large one."""
    values = np.random.default_rng(seed).standard_normal(shape)
    return torch.from_numpy(np.sign(values) * np.abs(values) ** tail).float()


def by_extremes(weight: Tensor, grid: IntGrid, share: float = 1.0) -> QParams:
    reach = share * weight.abs().flatten(1).amax(1) if grid.channel_axis == 0 else share * weight.abs().max()
    return project(Bounds.of(-reach, reach), grid)


@given(SHAPES, st.integers(0, 10**6), st.floats(0.1, 5), st.floats(0.05, 2), st.sampled_from([GRID, WHOLE]))
def test_no_activations_overflow_safe_weights(
    shape: tuple[int, ...], seed: int, tail: float, share: float, grid: IntGrid
) -> None:
    weight = drawn(shape, seed, tail)
    integers = quantize(weight, safe(weight, by_extremes(weight, grid, share))).numpy()
    assert not saturating.overflows(integers)
    image = np.random.default_rng(seed).integers(0, 2, (1, shape[1], 7, 7)) * 255
    exact = saturating.saturating_conv(image, integers, "exact")
    for order in saturating.ORDERS if shape[1] == 1 else saturating.ORDERS[:2]:
        assert np.array_equal(saturating.saturating_conv(image, integers, order), exact)


@given(SHAPES, st.integers(0, 10**6), st.floats(0.1, 5))
def test_scales_rise_only_as_far_as_needed(shape: tuple[int, ...], seed: int, tail: float) -> None:
    weight = drawn(shape, seed, tail)
    before = by_extremes(weight, GRID)
    after = safe(weight, before)
    for channel in range(shape[0]):
        unsafe = saturating.overflows(quantize(weight, before)[channel : channel + 1].numpy())
        assert bool(after.scale[channel] > before.scale[channel]) is unsafe
    least = pair_sums(weight.double()) / 128
    assert bool((after.scale.double() <= torch.maximum(before.scale, least * (1 + 2 * MARGIN))).all())


@given(SHAPES, st.integers(0, 10**6), st.floats(0.1, 5), st.sampled_from([GRID, WHOLE]))
def test_safe_weights_keep_scale_and_integers(shape: tuple[int, ...], seed: int, tail: float, grid: IntGrid) -> None:
    weight = drawn(shape, seed, tail)
    once = safe(weight, by_extremes(weight, grid))
    twice = safe(weight, once)
    assert torch.equal(once.scale, twice.scale)
    levels = quantize(weight, once) * once.scale.reshape(-1, 1, 1, 1)
    assert torch.equal(safe(levels, once).scale, once.scale)


@given(SHAPES, st.integers(0, 10**6), st.floats(0.1, 5))
def test_learned_weights_shrink_to_fit_their_scale(shape: tuple[int, ...], seed: int, tail: float) -> None:
    weight = drawn(shape, seed, tail)
    qparams = by_extremes(weight, GRID)
    fitted = weight.clone()
    fit_(fitted, qparams)
    assert not saturating.overflows(quantize(fitted, qparams).numpy())
    assert bool((fitted.abs() <= weight.abs()).all())
    assert bool((fitted * weight >= 0).all())
    assert torch.equal(safe(fitted, qparams).scale, qparams.scale)
    if not saturating.overflows(quantize(weight, qparams).numpy(), largest=260):
        assert torch.equal(fitted, weight)


@given(SHAPES, st.integers(0, 10**6), st.floats(0.1, 5), st.floats(0.05, 2))
def test_transposed_weights_have_outputs_second(shape: tuple[int, ...], seed: int, tail: float, share: float) -> None:
    weight = drawn(shape, seed, tail)
    before = by_extremes(weight, GRID, share)
    transposed = QParams(before.scale, before.zero_point, replace(GRID, channel_axis=1))
    turned = weight.transpose(0, 1).contiguous()
    assert torch.equal(safe(turned, transposed).scale, safe(weight, before).scale)
    fit_(weight, before)
    fit_(turned, transposed)
    assert torch.equal(turned.transpose(0, 1), weight)


@pytest.mark.parametrize(("weights", "activations"), [(8, 8), (8, 7), (7, 8), (4, 8), (8, 4)])
def test_only_eight_bits_of_both_can_overflow(weights: int, activations: int) -> None:
    grid = GRID.at(weights)
    limit = pair_limit(16, grid, IntGrid(activations))
    largest = np.full((1, 2, 1, 1), grid.qmax)
    assert saturating.overflows(largest, 2**activations - 1) is (limit is not None)
    if limit is not None:
        assert not saturating.overflows(np.array([limit - 1, 1]).reshape(1, 2, 1, 1), 2**activations - 1)
        assert saturating.overflows(np.array([limit, 1]).reshape(1, 2, 1, 1), 2**activations - 1)


class Extremes:
    """An observer of the extremes of each output channel."""

    def update(self, values: Tensor) -> None:
        self.reach = values.abs().flatten(1).amax(1)

    def merge(self, other: Any) -> None:
        raise NotImplementedError

    def bounds(self) -> Bounds:
        return Bounds.of(-self.reach, self.reach)


def test_quantizer_follows_a_weight_that_changes() -> None:
    quantizer = BoundedFakeQuantize("weight", GRID, Extremes(), constant=True)
    weight = drawn((4, 3, 3, 3), 0, 0.3)
    quantizer(weight)
    quantizer.set_mode(Mode.QUANTIZE)
    observed = quantizer.observed
    assert observed is not None
    assert bool((quantizer.qparams().scale > project(observed, GRID).scale).any())
    for factor in (1.0, 1.5, 0.5):
        quantizer(factor * weight)
        assert not saturating.overflows(quantize(factor * weight, quantizer.qparams()).numpy())


def test_activations_and_vnni_only_weights_keep_their_bounds() -> None:
    weight = drawn((4, 3, 3, 3), 0, 0.3)
    for grid, constant in (
        (IntGrid(8), False),
        (IntGrid(8, signed=True, symmetric=True, narrow_range=True, channel_axis=0), True),
    ):
        quantizer = BoundedFakeQuantize("site", grid, bounds=Bounds.of(-1.0, 1.0), constant=constant)
        quantizer.set_mode(Mode.QUANTIZE)
        before = quantizer.qparams().scale
        quantizer(weight)
        assert torch.equal(quantizer.qparams().scale, before)
