"""What PAMS and FQSR share: one learnable end, as far from zero on the other side or at zero there."""

import torch
from torch import Tensor

from srptq_plugin.quantization.grid import Bounds, project
from srptq_plugin.quantization.quantizer import BoundedFakeQuantize


class MirroredFakeQuantize(BoundedFakeQuantize):
    """Its end is `upper`, and starts from max(|l|, |u|); bounds that are its own already start it where they are.

    >>> from srptq_plugin.quantization.grid import IntGrid
    >>> quantizer = MirroredFakeQuantize("input", IntGrid(8))
    >>> quantizer.set_bounds(Bounds.of(-0.5, 2.0))
    >>> quantizer.bounds, quantizer.qparams().bounds
    (Bounds(-2, 2), Bounds(-2.00784, 1.99216))
    >>> quantizer.set_bounds(quantizer.qparams().bounds)
    >>> quantizer.bounds
    Bounds(-2, 2)
    """

    def mirrors(self, lower: Tensor) -> Tensor:
        """Whether the lower bound mirrors the end; where not, it is zero."""
        return torch.ones_like(lower, dtype=torch.bool)

    @property
    def bounds(self) -> Bounds:
        """Both, by the learned end."""
        end = super().bounds.upper
        return _reaching(end, self.mirrors(self.lower.detach()))

    def set_bounds(self, bounds: Bounds) -> None:
        """Start from the bound that is farther out."""
        mirrored = self.mirrors(bounds.lower)
        kept, farther = (self._end(each, mirrored) for each in (bounds, _reaching(bounds.reach, mirrored)))
        own = project(_reaching(kept, mirrored), self.grid).bounds
        same = (own.lower == bounds.lower) & (own.upper == bounds.upper)
        self.set_learnable_bounds(_reaching(torch.where(same, kept, farther), mirrored))

    def _end(self, bounds: Bounds, mirrored: Tensor) -> Tensor:
        """The end from which the scale is that of these bounds."""
        steps = self.grid.qmax if self.grid.symmetric else torch.where(mirrored, self.grid.steps / 2, self.grid.steps)
        return project(bounds, self.grid).scale.detach().double() * steps


def _reaching(end: Tensor, mirrored: Tensor) -> Bounds:
    return Bounds(torch.where(mirrored, -end, 0.0), end)
