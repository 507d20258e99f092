"""The rules of a target: its grids, its fusions, and where it needs quantizers."""

from dataclasses import dataclass

from srptq_plugin.graph.fusion import Fusion
from srptq_plugin.quantization.grid import IntGrid


@dataclass(frozen=True)
class WideBounds:
    """The bounds that the result of an operation has in 16 bits.

    >>> print(WideBounds("tanh", -1, 1))
    tanh from -1 to 1
    """

    op: str
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.op} from {self.low:g} to {self.high:g}"


@dataclass(frozen=True)
class Rules:
    """The rules of a target: its grids, its fusions, and where it needs quantizers.

    Operations have the names that graph keys have, such as `conv`, `add` or `cat`.
    """

    weights: IntGrid
    """The grid of weights. A recipe sets the bits."""
    activations: IntGrid
    """The grid of activations. A recipe sets the bits."""
    weight_bits: frozenset[int]
    """The bits that a weight may have."""
    activation_bits: frozenset[int]
    """The bits that an activation may have."""
    nonnegative_activations: IntGrid | None = None
    """The grid of activations that are never negative by construction. Without one they have the grid of the others."""
    placements: tuple[str, ...] = ("full", "convs")
    """The placements that it runs, the default first."""
    inputs: frozenset[str] = frozenset({"conv", "add", "cat"})
    """Operations whose inputs are quantized under `full`. Under `convs`, only convolutions have quantized inputs."""
    symmetric_inputs: frozenset[str] = frozenset()
    """Operations that read integers with zero point 0 only: uint8 if never negative, and int8 otherwise."""
    float_inputs: frozenset[str] = frozenset()
    """Operations that read floats, also from operations whose outputs are quantized otherwise."""
    transposed_stride: int | None = None
    """The largest stride of a transposed convolution in integers. None if any stride will do."""
    outputs: frozenset[str] = frozenset({"conv", "add", "cat"})
    """Operations whose outputs are quantized under `full`."""
    outputs_as_skips: bool = False
    """Outputs of convolutions have a recipe's bits of skips, like sums, unless a convolution or concat reads them."""
    fusions: tuple[Fusion, ...] = (Fusion("relu"),)
    """Operations that it computes in the kernel of an operation before them. No quantizer stands inside a kernel."""
    shared_scales: frozenset[str] = frozenset()
    """Operations whose inputs and output have one scale. Those that only move values always have one."""
    one_grid_per_tensor: bool = False
    """All readers of a tensor read the same integers, as in files that name a tensor once. The most bits win."""
    every_tensor: bool = False
    """Every tensor has an encoding, under `full`: a float between integers costs conversions, or runs nowhere."""
    relu_by_range: bool = False
    """It computes a ReLU by the lower end of the integers behind it, which therefore stands for 0."""
    stored_once: bool = False
    """A tensor is stored as integers or as floats, not both: other readers of integers convert them as they read."""
    float_long_skip: bool = False
    """The sum behind the body adds the head's output as floats, at next to no time. The body reads its integers."""
    per_channel: bool = True
    """A weight may have one scale per output channel. Otherwise it has one scale."""
    integer_bias: bool = False
    """Biases are 32-bit integers. Their scale is the input's times the weight's."""
    pair_sum_bits: int | None = None
    """Bits of the saturating sum of two products on processors without VNNI. None if all sums have 32 bits."""
    sum_multiplier_bits: int | None = None
    """Bits of the integers by which kernels multiply what they add, behind the leading one. None if sums are exact."""
    leaky_multiplier_bits: int | None = None
    """Bits behind the point of the integers by which kernels multiply in a leaky ReLU. None if they are exact."""
    wide_bounds: tuple[WideBounds, ...] = ()
    """Operations whose result has fixed bounds in 16 bits."""
    htp_rounding: bool = False
    """Convolutions and sums of 8 bits round as in Qualcomm's HTP, which multiplies by integers of few bits."""
    float_bits: int = 21
    """The bits to which a value is exact that it computes in floats by several operations."""
    sign_bit: bool = False
    """The sign takes one bit more than a recipe names: signed grids of M bits have M + 1."""
    integer_bits: frozenset[int] = frozenset({8})
    """The bits that it computes in integers. With none it is a simulation, which may leave parts float."""

    def sized(self, grid: IntGrid, bits: int) -> IntGrid:
        """Return a grid with a recipe's number of bits.

        >>> signed = IntGrid(8, signed=True, symmetric=True, narrow_range=True)
        >>> Rules(signed, signed, frozenset({4}), frozenset({4}), sign_bit=True).sized(signed, 4).qmax
        15
        """
        return grid.at(bits + (self.sign_bit and grid.signed))

    def named(self, grid: IntGrid) -> int:
        """Return the number of bits by which a recipe names a grid: the inverse of `sized`."""
        return grid.bits - (self.sign_bit and grid.signed)

    def placement(self, choice: str | None) -> str:
        """Return a recipe's placement, or the default if it names none.

        >>> grid = IntGrid(8)
        >>> Rules(grid, grid, frozenset({8}), frozenset({8})).placement(None)
        'full'
        """
        return choice or self.placements[0]
