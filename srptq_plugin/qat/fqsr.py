"""FQSR, fully quantized super-resolution (Wang et al. 2020): one learnable interval for each quantizer."""

from torch import Tensor

from srptq_plugin.qat.symmetric import MirroredFakeQuantize


class FqsrFakeQuantize(MirroredFakeQuantize):
    """Clips to [-I, I], or to [0, I] if no value is negative. I is `upper`, and starts from max(|l|, |u|).

    Equation (3): Q(v) = round(clip(v / I) * n) * I / n, n = 2^M - 1. Rounding is straight through and all else is
    differentiated. So I learns from all values: the derivative is (round(v n / I) - v n / I) / n for a value within,
    and 1 or -1 for a clipped one.

    The preset `fqsr` of the target `paper` has these 2^(M + 1) - 1 signed or 2^M unsigned levels. On another target the
    interval has the levels of its grid, since the trained quantizer is the exported one.

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

    def is_mirrored(self, lower: Tensor) -> Tensor:
        """Return True if a value is negative, or if the grid is as wide on either side anyway."""
        return (lower < 0) | (self.grid.symmetric and self.grid.signed)
