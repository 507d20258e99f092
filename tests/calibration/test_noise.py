"""The noise of rounding as a function of channel scales: compared with its formula, and minimized."""

import math
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from srptq_plugin.calibration.equalization.channels import FIXED
from srptq_plugin.calibration.equalization.noise import (
    LARGEST,
    SHARPNESS,
    ActivationNoise,
    NoiseTerm,
    WeightNoise,
    least_noise,
    noise,
)
from srptq_plugin.quantization.grid import IntGrid

CLASSES = 7


def largest(values: Sequence[float]) -> float:
    return sum(value**SHARPNESS for value in values) ** (1 / SHARPNESS)


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 0.1


def classes(seed: int, *shape: int) -> Tensor:
    return torch.randint(0, CLASSES, shape, generator=torch.Generator().manual_seed(seed))


def activation(seed: int, grid: IntGrid) -> ActivationNoise:
    low, high, gain = (drawn(3 * seed + n, 5) for n in range(3))
    return ActivationNoise(
        grid,
        low.log(),
        high.log(),
        gain,
        classes(seed, 5),
        torch.tensor([1.0, 1.0, 2.0, 0.5, 1.0], dtype=torch.float64),
    )


def weight(seed: int, grid: IntGrid, groups: int = 2) -> WeightNoise:
    size, gain = (drawn(2 * seed + n, groups, 4, 3) for n in range(2))
    return WeightNoise(grid, size.log(), gain, classes(seed, groups, 4), classes(seed + 1, groups, 3))


def plain_activation(part: ActivationNoise, scales: Tensor) -> float:
    own = [float(scales[n]) ** float(power) for n, power in zip(part.classes, part.powers, strict=True)]
    low, high = (largest([math.exp(v) / s for v, s in zip(ends, own, strict=True)]) for ends in (part.low, part.high))
    width = 2 * max(low, high) if part.grid.symmetric else low + high
    return (width / part.grid.steps) ** 2 / 12 * sum(float(g) * s**2 for g, s in zip(part.gain, own, strict=True))


def plain_weight(part: WeightNoise, scales: Tensor) -> float:
    tops: list[float] = []
    gains: list[float] = []
    for group in range(part.size.shape[0]):
        for output in range(part.size.shape[1]):
            own = float(scales[part.outputs[group, output]])
            moved = [float(scales[read]) / own for read in part.inputs[group]]
            tops.append(largest([math.exp(v) * s for v, s in zip(part.size[group, output], moved, strict=True)]))
            gains.append(sum(float(g) / s**2 for g, s in zip(part.gain[group, output], moved, strict=True)))
    tops = tops if part.grid.channel_axis == 0 else [largest(tops)] * len(tops)
    return sum((2 * top / part.grid.steps) ** 2 / 12 * gain for top, gain in zip(tops, gains, strict=True))


@given(seed=st.integers(0, 10**6), bits=st.integers(2, 8), symmetric=st.booleans())
def test_activation_noise_matches_the_formula(seed: int, bits: int, symmetric: bool) -> None:  # noqa: FBT001
    part = activation(seed, IntGrid(bits, signed=symmetric, symmetric=symmetric))
    scales = drawn(seed, CLASSES)
    assert float(part.noise(scales.log())) == pytest.approx(plain_activation(part, scales), rel=1e-9)


@given(seed=st.integers(0, 10**6), bits=st.integers(2, 8), axis=st.sampled_from([None, 0]), groups=st.integers(1, 3))
def test_weight_noise_matches_the_formula(seed: int, bits: int, axis: int | None, groups: int) -> None:
    part = weight(seed, IntGrid(bits, signed=True, symmetric=True, channel_axis=axis), groups)
    scales = drawn(seed, CLASSES)
    assert float(part.noise(scales.log())) == pytest.approx(plain_weight(part, scales), rel=1e-9)


@pytest.fixture
def parts() -> list[NoiseTerm]:
    """Return parts of both kinds. Some have the same grid and shape."""
    fine, coarse = (IntGrid(bits, signed=True, symmetric=True) for bits in (8, 4))
    activations = [activation(seed, grid) for seed, grid in enumerate((fine, coarse, fine, IntGrid(8)))]
    axis = IntGrid(8, signed=True, symmetric=True, channel_axis=0)
    return [*activations, *(weight(5, grid) for grid in (fine, axis)), weight(6, axis), weight(7, axis, 1)]


def test_stacked_encodings_have_the_same_noise(parts: list[NoiseTerm]) -> None:
    logs, falls = least_noise(parts, CLASSES)
    before = sum(float(part.noise(torch.zeros_like(logs))) for part in parts)
    after = sum(float(part.noise(logs)) for part in parts)
    assert falls == pytest.approx(before / after, rel=1e-9)
    assert falls > 1
    assert logs[FIXED] == 0
    assert logs.abs().max() <= LARGEST


@pytest.mark.usefixtures("whole_descents")
def test_neighboring_scales_have_more_noise(parts: list[NoiseTerm]) -> None:
    logs, _ = least_noise(parts, CLASSES)
    least = float(noise(parts, logs))
    for seed in range(20):
        moved = logs + 0.1 * (drawn(seed, CLASSES) - 0.6)
        moved[FIXED] = 0
        assert float(noise(parts, moved)) > least


def test_dead_channels_give_finite_scales() -> None:
    silent = torch.full((3,), 1e-30).log()
    part = ActivationNoise(IntGrid(8), silent, drawn(1, 3).log(), torch.zeros(3), classes(1, 3), torch.ones(3).double())
    dead = weight(1, IntGrid(8, signed=True, symmetric=True, channel_axis=0))
    dead.size[0, 1] = math.log(1e-30)
    logs, falls = least_noise([part, dead], CLASSES)
    assert torch.isfinite(logs).all()
    assert math.isfinite(falls)
