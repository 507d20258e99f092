"""The noise that rounding puts into the image, as a function of channel scales, and the scales that minimize it.

    sum over activations  step^2 / 12 x sum over channels  s_c^2 G_c      step from the widest  range_c / s_c
    sum over weights      step^2 / 12 x sum over inputs    H_c / s_c^2    step from the largest |w_c| s_c

step^2 / 12 is the variance of a uniform rounding error. G and H are the squared gradients of the image's pixels that
`sensitivity.py` measures: an error in a channel divided by s_c is multiplied by s_c where the channel is read.
Scales that are raised against overflow are not modeled, which changed the noise by 0.03 dB.

Magnitudes and scales are logarithms here, so that factors stay positive and products are sums. Encodings of one shape
are computed together, as many small tensors take long.
"""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from srptq_plugin.calibration.equalization.channels import FIXED
from srptq_plugin.quantization.grid import IntGrid
from srptq_plugin.utils.devices import one_thread

STEPS, RATE = 400, 0.02
"""Adam's steps, and its rate at first."""
SHARPNESS = 24
"""The order of the norm that stands for a maximum."""
TINY = 1e-30
"""The smallest magnitude, so that its logarithm is finite."""
LARGEST = 3.0
"""The largest magnitude of the logarithm of a factor."""


@dataclass(frozen=True)
class ActivationNoise:
    """The noise of one activation encoding, or of several stacked ones.

    Attributes:
        grid: The grid of the encoding.
        low: The logarithm of how far each channel goes below zero, [..., channels].
        high: The logarithm of how far it goes above zero.
        gain: The squared gradients of the image.
        classes: The class of each channel.
        powers: The power to which each channel has the factor of its class.
    """

    grid: IntGrid
    low: Tensor
    high: Tensor
    gain: Tensor
    classes: Tensor
    powers: Tensor

    def noise(self, logs: Tensor) -> Tensor:
        """Return the squared error of the image. Each channel is divided by its power of exp(logs) of its class."""
        factor = logs[self.classes] * self.powers
        # One scale holds all channels, so that its step follows from the widest.
        high, low = smooth_maximum(self.high - factor).exp(), smooth_maximum(self.low - factor).exp()
        width = 2 * torch.maximum(high, low) if self.grid.symmetric else high + low
        return ((width / self.grid.steps) ** 2 / 12 * (self.gain * (2 * factor).exp()).sum(-1)).sum()


@dataclass(frozen=True)
class WeightNoise:
    """The noise of one weight, or of several stacked ones.

    Attributes:
        grid: The grid of the weight.
        size: The logarithm of the largest magnitude, [..., groups, outputs, inputs].
        gain: The squared gradients of the image, likewise.
        outputs: The class of each output channel, [..., groups, outputs].
        inputs: The class of each input channel, [..., groups, inputs].
    """

    grid: IntGrid
    size: Tensor
    gain: Tensor
    outputs: Tensor
    inputs: Tensor

    def noise(self, logs: Tensor) -> Tensor:
        """Return the squared error of the image. Inputs are multiplied by their factors and outputs divided."""
        factor = logs[self.inputs][..., None, :] - logs[self.outputs][..., None]
        # [..., groups, outputs]: a scale for each output channel, or one for the whole weight.
        largest = smooth_maximum(self.size + factor)
        if self.grid.channel_axis is None:
            largest = smooth_maximum(largest.flatten(-2))[..., None, None]
        return ((2 * largest.exp() / self.grid.steps) ** 2 / 12 * (self.gain * (-2 * factor).exp()).sum(-1)).sum()


NoiseTerm = ActivationNoise | WeightNoise


@one_thread()
def least_noise(parts: Sequence[NoiseTerm], count: int) -> tuple[Tensor, float]:
    """Return the logarithms of the factors with the least noise, and the ratio by which it falls.

    The logarithm of class `FIXED` stays 0.
    """
    together = list(_stack(parts))
    logs = no_factors(count).requires_grad_()
    free = torch.ones(count, dtype=torch.float64)
    free[FIXED] = 0
    descend([logs], lambda: noise(together, logs * free), STEPS, RATE)
    best = (logs.detach() * free).clamp(-LARGEST, LARGEST)
    return best, float(noise(together, torch.zeros_like(best)) / noise(together, best))


def descend(parameters: Sequence[Tensor], noise: Callable[[], Tensor], steps: int, rate: float) -> None:
    """Change parameters in place by Adam, until the noise is small. The rate falls to zero."""
    optimizer = torch.optim.Adam(parameters, lr=rate)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = rate * (1 - step / steps)
        optimizer.zero_grad()
        # The logarithm makes the gradient, and so the steps, independent of the noise's magnitude.
        noise().log().backward()
        optimizer.step()


def no_factors(count: int) -> Tensor:
    """Return the logarithms of factors that scale nothing."""
    return torch.zeros(count, dtype=torch.float64)


def noise(parts: Sequence[NoiseTerm], logs: Tensor) -> Tensor:
    """Return the squared error of the image by the rounding of all parts."""
    return torch.stack([part.noise(logs) for part in parts]).sum()


def _stack(parts: Sequence[NoiseTerm]) -> Iterator[NoiseTerm]:
    """Yield one part for all parts of one kind, grid and shape."""
    alike: dict[Hashable, list[NoiseTerm]] = defaultdict(list)
    for part in parts:
        alike[type(part), part.grid, part.gain.shape].append(part)
    for members in alike.values():
        names = [field.name for field in fields(members[0]) if field.name != "grid"]
        stacked: dict[str, Any] = {name: torch.stack([getattr(part, name) for part in members]) for name in names}
        yield replace(members[0], **stacked)


def to_logs(magnitudes: Tensor) -> Tensor:
    """Return logarithms that are finite."""
    return magnitudes.clamp(min=TINY).log()


def smooth_maximum(logs: Tensor) -> Tensor:
    """Return a smooth maximum of the last axis: the norm of order `SHARPNESS`, in logarithms.

    A hard maximum would give a gradient to the largest channel alone, and the largest would alternate.
    """
    return (SHARPNESS * logs).logsumexp(-1) / SHARPNESS
