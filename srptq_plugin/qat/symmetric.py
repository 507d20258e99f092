"""Quantizers with one learnable end: the other one mirrors it, or is zero."""

import torch
from torch import Tensor

from srptq_plugin.quantization.grid import Bounds, project
from srptq_plugin.quantization.quantizer import BoundedFakeQuantize


class MirroredFakeQuantize(BoundedFakeQuantize):
    """A quantizer with the learnable end `upper`, which starts from max(|l|, |u|). PAMS and FQSR derive from it.

    >>> from srptq_plugin.quantization.grid import IntGrid
    >>> quantizer = MirroredFakeQuantize("input", IntGrid(8))
    >>> quantizer.set_bounds(Bounds.of(-0.5, 2.0))
    >>> quantizer.bounds, quantizer.qparams().bounds
    (Bounds(-2, 2), Bounds(-2.00784, 1.99216))

    Exported bounds start it where it ended:

    >>> quantizer.set_bounds(quantizer.qparams().bounds)
    >>> quantizer.bounds
    Bounds(-2, 2)
    """

    def is_mirrored(self, lower: Tensor) -> Tensor:
        """Return for each channel whether the lower bound mirrors the upper one. If not, it is zero."""
        return torch.ones_like(lower, dtype=torch.bool)

    @property
    def bounds(self) -> Bounds:
        """Both bounds, from the learnable end."""
        end = super().bounds.upper
        return _bounds_to(end, self.is_mirrored(self.lower.detach()))

    def set_bounds(self, bounds: Bounds) -> None:
        """Start from the bound that is farther from zero.

        Zero is a level, so an odd number of steps has no even split: [-2, 2] is exported as [-2.008, 1.992], and its
        farther bound would widen the range with each export. So bounds that this quantizer itself exports for some end
        restore that end. The invariant: setting exported bounds changes no scale, however often.
        """
        mirrored = self.is_mirrored(bounds.lower)
        restored = self._end(bounds, mirrored)
        farther = self._end(_bounds_to(bounds.reach, mirrored), mirrored)
        exported = project(_bounds_to(restored, mirrored), self.grid).bounds
        is_own = (exported.lower == bounds.lower) & (exported.upper == bounds.upper)
        self.set_learnable_bounds(_bounds_to(torch.where(is_own, restored, farther), mirrored))

    def _end(self, bounds: Bounds, mirrored: Tensor) -> Tensor:
        """Return the end that gives the same scale as these bounds.

        Half of the steps lie on either side of zero if the range is mirrored. A symmetric grid is used up to `qmax`.
        """
        steps = self.grid.qmax if self.grid.symmetric else torch.where(mirrored, self.grid.steps / 2, self.grid.steps)
        return project(bounds, self.grid).scale.detach().double() * steps


def _bounds_to(end: Tensor, mirrored: Tensor) -> Bounds:
    return Bounds(torch.where(mirrored, -end, 0.0), end)
