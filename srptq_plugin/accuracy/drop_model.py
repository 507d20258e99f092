"""The drop of PSNR as a function of rounding noise, and the noise to aim at after some plans were measured."""

from collections.abc import Sequence
from dataclasses import dataclass

from srptq_plugin.data.metrics import PEAK, decibels

BISECTIONS = 50
MOST = 64.0
"""The largest factor of the first plan's noise that is looked for."""
CAUTION = 0.95, 0.8, 0.5
"""Factors of the noise that is aimed at, after one, two and more plans that missed the limit."""
INSIDE = 0.1
"""How far from either end of an interval the next point lies at least, as a share of it."""


@dataclass(frozen=True)
class DropModel:
    """The drop of the mean PSNR if the noise of one measured plan is scaled.

    Rounding errors are independent of the float network's errors, so that their squares add up in each image.
    """

    plain: Sequence[float]
    """The float network's mean squared error for each image."""
    noise: Sequence[float]
    """The error that the plan adds to it. It is negative where the quantized network happens to be better."""

    @classmethod
    def of(cls, plain: Sequence[float], quantized: Sequence[float]) -> "DropModel":
        """Take the PSNR of each image by the float network and by the plan.

        >>> model = DropModel.of([30.0, 32.0], [29.9, 31.9])
        >>> round(model.drop(1), 3), round(model.drop(0.5), 3), round(model.share(0.05), 2)
        (0.1, 0.05, 0.5)
        """
        errors = [[PEAK**2 / 10 ** (value / 10) for value in scores] for scores in (plain, quantized)]
        return cls(errors[0], [both - alone for alone, both in zip(*errors, strict=True)])

    def drop(self, share: float) -> float:
        """Return the drop in dB at a share of the noise."""
        pairs = zip(self.plain, self.noise, strict=True)
        errors = ((alone, max(alone + share * noise, alone / 2)) for alone, noise in pairs)
        return sum(decibels(alone, PEAK) - decibels(both, PEAK) for alone, both in errors) / len(self.plain)

    def share(self, drop: float) -> float:
        """Return the share of the noise at which the drop is as given, by bisection."""
        low, high = 0.0, MOST
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            low, high = (middle, high) if self.drop(middle) <= drop else (low, middle)
        return low


@dataclass(frozen=True)
class Point:
    """A measured plan: the share of the first plan's noise that was expected of it, and the share that it makes."""

    expected: float
    measured: float


def next_share(points: Sequence[Point], allowed: float) -> float:
    """Return the expected share of noise to try next: the most that will probably not exceed the allowed one.

    >>> next_share([Point(1, 1)], allowed=0.5)
    0.475
    >>> round(next_share([Point(1, 1), Point(0.475, 0.3)], allowed=0.5), 3)
    0.595
    """
    held = [point for point in points if point.measured <= allowed]
    missed = [point for point in points if point.measured > allowed]
    if not held:
        least = min(missed, key=lambda point: point.expected)
        return least.expected * min(allowed / least.measured, 1.0) * CAUTION[min(len(missed), len(CAUTION)) - 1]
    lower = max(held, key=lambda point: point.expected)
    upper = min((point for point in missed if point.expected > lower.expected), key=lambda point: point.expected)
    part = (allowed - lower.measured) / (upper.measured - lower.measured) * CAUTION[1]
    return lower.expected + (upper.expected - lower.expected) * min(max(part, INSIDE), 1 - INSIDE)
