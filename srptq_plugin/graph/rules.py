"""What a target allows, and where it wants quantizers."""

from dataclasses import dataclass

from srptq_plugin.quantization.grid import IntGrid


@dataclass(frozen=True)
class Rules:
    """What a target allows, and where it wants quantizers."""

    weights: IntGrid
    """The grid of weights; a recipe says the bits."""
    activations: IntGrid
    """The grid of activations."""
    weight_bits: frozenset[int]
    """The bits that a weight may have."""
    activation_bits: frozenset[int]
    """The bits that an activation may have."""
    placements: tuple[str, ...] = ("full", "convs")
    """The placements that it runs, its default first."""
    inputs: frozenset[str] = frozenset({"conv", "add", "cat"})
    """Operations whose inputs are quantized under `full`."""
    outputs: frozenset[str] = frozenset({"conv", "add", "cat"})
    """Operations whose outputs are quantized under `full`."""
    fused: frozenset[str] = frozenset({"relu"})
    """Operations that are computed inside the one before them, so that the quantizer comes after them."""
    fused_in_conv: frozenset[str] = frozenset()
    """The same, only where that is a convolution."""
    shared_concat: bool = False
    """What a concat reads and gives shares one encoding."""
    joins_in_conv: bool = False
    """A convolution adds the skip itself: the branch of an add that comes straight from one has no quantizer."""
    integer_bias: bool = False
    """Biases are 32-bit integers at the scale of the products."""
    one_encoding: bool = False
    """All readers of a tensor read the same integers."""
    per_channel: bool = True
    """A weight may have a scale for each channel; otherwise it has one."""
    pair_sum_bits: int | None = None
    """Bits of the saturating integers in which kernels without VNNI add two products; none where sums have 32."""
    unsigned_if_nonnegative: bool = False
    """What is never negative is unsigned."""
    sign_bit: bool = False
    """A recipe's bits are those of the magnitude, and a signed grid has one more."""
    integer_bits: frozenset[int] = frozenset({8})
    """The bits that it computes in integers; with none it is a simulation, which may leave parts float."""

    def sized(self, grid: IntGrid, bits: int) -> IntGrid:
        """A grid with a recipe's number of bits.

        >>> signed = IntGrid(8, signed=True, symmetric=True, narrow_range=True)
        >>> Rules(signed, signed, frozenset({4}), frozenset({4}), sign_bit=True).sized(signed, 4).qmax
        15
        """
        return grid.at(bits + (self.sign_bit and grid.signed))

    def placement(self, asked: str | None) -> str:
        """What a recipe asks for, or the default.

        >>> grid = IntGrid(8)
        >>> Rules(grid, grid, frozenset({8}), frozenset({8})).placement(None)
        'full'
        """
        return asked or self.placements[0]

    def named(self, grid: IntGrid) -> int:
        """The number of bits by which a recipe names a grid, `sized` undone."""
        return grid.bits - (self.sign_bit and grid.signed)
