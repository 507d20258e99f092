"""FQSR, fully quantized super-resolution (Wang et al. 2020): one learnable interval a quantizer."""

from torch import Tensor

from srptq_plugin.qat.symmetric import MirroredFakeQuantize


class FqsrFakeQuantize(MirroredFakeQuantize):
    """Clips to [-I, I] or, what is never negative, to [0, I]; I is `upper`, starts from max(|l|, |u|), learns from all.

    Equation (3): Q(v) = round(clip(v / I) * n) * I / n, n = 2^M - 1. Rounding is straight through and all else is
    differentiated, so a value within has the derivative (round(v n / I) - v n / I) / n in I, a clipped one 1 or -1. The
    preset `fqsr` of the target `paper` has these 2^(M + 1) - 1 signed or 2^M unsigned levels; on any other grid the
    interval has the levels of that grid, as what is trained is what is exported.

    >>> from srptq_plugin.quantization.grid import Bounds, IntGrid
    >>> quantizer = FqsrFakeQuantize("input", IntGrid(5, signed=True, symmetric=True, narrow_range=True))
    >>> quantizer.set_bounds(Bounds.of(-0.5, 2.0))
    >>> quantizer.bounds
    Bounds(-2, 2)
    >>> quantizer = FqsrFakeQuantize("relu", IntGrid(4))
    >>> quantizer.set_bounds(Bounds.of(0.1, 2.0))
    >>> quantizer.bounds
    Bounds(0, 2)
    """

    def mirrors(self, lower: Tensor) -> Tensor:
        """Where something is negative, or the grid is as wide on either side anyway."""
        return (lower < 0) | (self.grid.symmetric and self.grid.signed)
