"""The noise that rounding puts into the image, as a function of how channels are scaled, and the scales of the least.

    sum over activations  step^2 / 12 x sum over channels  s_c^2 G_c      step from the widest  range_c / s_c
    sum over weights      step^2 / 12 x sum over inputs    H_c / s_c^2    step from the largest |w_c| s_c

G and H being the squared gradients of the image's pixels, as `sensitivity.py` measures them. Scales that are raised
against overflow are not modeled: that changed the noise by 0.03 dB. Magnitudes and scales
are logarithms here. Encodings of one shape are computed together: many small tensors take long.
"""

from collections import defaultdict
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from srptq_plugin.calibration.equalization.channels import FIXED
from srptq_plugin.quantization.grid import IntGrid

STEPS, RATE, SHARPNESS = 400, 0.02, 24
LARGEST = 3.0
"""Of the logarithm of a factor."""


@dataclass(frozen=True)
class ActivationNoise:
    """One encoding, or several alike: how far all channels that it is for go, their gradients and their classes."""

    grid: IntGrid
    low: Tensor
    high: Tensor
    gain: Tensor
    classes: Tensor

    def noise(self, logs: Tensor) -> Tensor:
        """What its rounding does to the image, the channels being scaled by exp(logs)."""
        factor = logs[self.classes]
        high, low = _largest(self.high - factor).exp(), _largest(self.low - factor).exp()
        width = 2 * torch.maximum(high, low) if self.grid.symmetric else high + low
        return ((width / self.grid.steps) ** 2 / 12 * (self.gain * (2 * factor).exp()).sum(-1)).sum()


@dataclass(frozen=True)
class WeightNoise:
    """A weight, or several alike: magnitudes and gradients by group, output and input channel, and the classes."""

    grid: IntGrid
    size: Tensor
    gain: Tensor
    outputs: Tensor
    inputs: Tensor

    def noise(self, logs: Tensor) -> Tensor:
        """What its rounding does to the image."""
        factor = logs[self.inputs][..., None, :] - logs[self.outputs][..., None]
        largest = _largest(self.size + factor)
        if self.grid.channel_axis is None:
            largest = _largest(largest.flatten(-2))[..., None, None]
        return ((2 * largest.exp() / self.grid.steps) ** 2 / 12 * (self.gain * (-2 * factor).exp()).sum(-1)).sum()


NoiseTerm = ActivationNoise | WeightNoise


def least_noise(parts: Sequence[NoiseTerm], count: int) -> tuple[Tensor, float]:
    """The logarithms of the factors with the least noise, and by how much it falls; that of class FIXED stays 0."""
    together = list(_stacked(parts))
    logs = torch.zeros(count, dtype=torch.float64, requires_grad=True)
    free = torch.ones(count, dtype=torch.float64)
    free[FIXED] = 0
    optimizer = torch.optim.Adam([logs], lr=RATE)
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = RATE * (1 - step / STEPS)
        optimizer.zero_grad()
        noise(together, logs * free).log().backward()
        optimizer.step()
    found = (logs.detach() * free).clamp(-LARGEST, LARGEST)
    return found, float(noise(together, torch.zeros_like(found)) / noise(together, found))


def noise(parts: Sequence[NoiseTerm], logs: Tensor) -> Tensor:
    """What the rounding of all of them does to the image."""
    return torch.stack([part.noise(logs) for part in parts]).sum()


def _stacked(parts: Sequence[NoiseTerm]) -> Iterator[NoiseTerm]:
    """Parts of one kind, grid and shape as one."""
    alike: dict[Hashable, list[NoiseTerm]] = defaultdict(list)
    for part in parts:
        alike[type(part), part.grid, part.gain.shape].append(part)
    for found in alike.values():
        names = [each.name for each in fields(found[0]) if each.name != "grid"]
        joined: dict[str, Any] = {name: torch.stack([getattr(part, name) for part in found]) for name in names}
        yield replace(found[0], **joined)


def _largest(logs: Tensor) -> Tensor:
    """A smooth maximum of the last axis: the norm of a high order."""
    return (SHARPNESS * logs).logsumexp(-1) / SHARPNESS
