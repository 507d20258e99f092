"""Integer grids, bounds and the projection between them: the only quantization arithmetic in the project.

A tensor is clipped to real `Bounds`. A target offers an `IntGrid`. `project` turns both into the `QParams` that the
target runs. PaC tunes bounds *through* the projection, so the tuned bounds are the exported ones.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from srptq_plugin.errors import SrptqError

INTEGER_WIDTH = 8
"""The bits that every runtime of integers computes in."""
SMALLEST_RANGE = 1e-12
"""The limit below which a range holds zeros only, so that any scale fits. Scale 1 keeps integer biases in range."""

SMALLEST_HALF = 2.0**-24
"""The smallest number of half precision above 0."""


@dataclass(frozen=True)
class IntGrid:
    """The integers that a target offers for a tensor, and the scales and zero points that it allows.

    >>> weight = IntGrid(8, signed=True, symmetric=True, narrow_range=True, channel_axis=0)
    >>> weight.qmin, weight.qmax, IntGrid(4).qmax
    (-127, 127, 15)
    """

    bits: int
    signed: bool = False
    symmetric: bool = False
    """Whether the zero point is 0."""
    narrow_range: bool = False
    """Whether the smallest integer is left out, so that integers go as far down as up. Signed grids only."""
    channel_axis: int | None = None
    """The axis whose channels have scales of their own. None: one scale for the tensor."""
    power_of_two: bool = False
    """Whether scales are powers of two."""
    half_scale: bool = False
    """Whether scales are numbers of half precision."""
    float_zero_point: bool = False
    """Whether the zero point is any real number, so that zero need not be a level (simulation only)."""
    pair_limit: int | None = None
    """The largest sum of two neighboring weights of one sign that kernels hold, see `saturation.py`."""

    @classmethod
    def between(
        cls,
        qmin: int,
        qmax: int,
        *,
        symmetric: bool = False,
        channel_axis: int | None = None,
        power_of_two: bool = False,
    ) -> "IntGrid":
        """Return the grid from `qmin` to `qmax`, as toolkits describe one.

        >>> IntGrid.between(-7, 7, symmetric=True).bits, IntGrid.between(0, 15).bits
        (4, 4)
        """
        narrow = qmin + qmax == 0  # -127..127 is the narrow range of 8 bits
        bits = (qmax - qmin + narrow).bit_length()
        grid = cls(bits, qmin < 0, symmetric, narrow, channel_axis, power_of_two)
        if qmin > 0 or (grid.qmin, grid.qmax) != (qmin, qmax):
            raise SrptqError(
                f"integers {qmin}..{qmax} are no grid; give 0..2^bits - 1 or -2^(bits - 1)..2^(bits - 1) - 1"
            )
        return grid

    @property
    def qmin(self) -> int:
        """The smallest integer."""
        return (-(2 ** (self.bits - 1)) + self.narrow_range) if self.signed else 0

    @property
    def qmax(self) -> int:
        """The largest integer."""
        return 2 ** (self.bits - 1) - 1 if self.signed else 2**self.bits - 1

    @property
    def steps(self) -> int:
        """The number of steps between the smallest and the largest integer."""
        return self.qmax - self.qmin

    def at(self, bits: int) -> "IntGrid":
        """Return the same grid with another number of bits."""
        return replace(self, bits=bits)


@dataclass(frozen=True)
class Bounds:
    """The real clip range of a tensor, or of each of its channels.

    >>> Bounds.of(-1, 3)
    Bounds(-1, 3)
    """

    lower: Tensor
    upper: Tensor

    @classmethod
    def of(cls, lower: float | Tensor, upper: float | Tensor) -> "Bounds":
        """Return bounds in float64, without gradient. Float64 makes projecting them again exact."""
        return cls(*(torch.as_tensor(end, dtype=torch.float64).detach() for end in (lower, upper)))

    @property
    def reach(self) -> Tensor:
        """The distance from zero of the bound that is farther out.

        >>> Bounds.of(-3, 1).reach.item()
        3.0
        """
        return torch.maximum(self.lower.abs(), self.upper.abs())

    @property
    def outermost(self) -> tuple[float, float]:
        """The range of all channels together.

        >>> Bounds.of(torch.tensor([-1.0, -3.0]), torch.tensor([2.0, 1.0])).outermost
        (-3.0, 2.0)
        """
        return float(self.lower.min()), float(self.upper.max())

    def __repr__(self) -> str:
        ends = (end.tolist() for end in (self.lower, self.upper))
        return f"Bounds({', '.join(f'{end:.6g}' if isinstance(end, float) else str(end) for end in ends)})"


@dataclass(frozen=True)
class QParams:
    """A scale and a zero point on a grid, with the bounds that they represent.

    >>> q = project(Bounds.of(-0.5, 1.0), IntGrid(8))
    >>> q.zero_point.item(), q.bounds
    (85.0, Bounds(-0.5, 1))
    """

    scale: Tensor
    zero_point: Tensor
    grid: IntGrid

    @property
    def bounds(self) -> Bounds:
        """The real values of the smallest and the largest integer. Projecting them gives the same bits again."""
        scale, zero_point = self.scale.detach().double(), self.zero_point.detach().double()
        return Bounds((self.grid.qmin - zero_point) * scale, (self.grid.qmax - zero_point) * scale)

    @property
    def integer_zero_point(self) -> Tensor:
        """The zero point as an integer."""
        return self.zero_point.detach().to(torch.int32)

    def unsigned(self) -> "QParams":
        """Return the same levels on the unsigned grid with as many bits.

        >>> q = project(Bounds.of(-1.0, 0.5), IntGrid(8, signed=True, symmetric=True)).unsigned()
        >>> q.zero_point.item(), q.bounds
        (128.0, Bounds(-1, 0.992188))
        """
        if not self.grid.signed:
            return self
        grid = replace(self.grid, signed=False, symmetric=False, narrow_range=False)
        return QParams(self.scale, self.zero_point + 2 ** (grid.bits - 1), grid)

    def detach(self) -> "QParams":
        """Return the same numbers without a gradient."""
        return QParams(self.scale.detach(), self.zero_point.detach(), self.grid)


def round_through(values: Tensor) -> Tensor:
    """Round half to even. The gradient passes straight through."""
    # The difference of x and round(x) is exact in floating point, so the sum is round(x), bit for bit.
    return values + (values.round() - values).detach()


def project(bounds: Bounds, grid: IntGrid) -> QParams:
    """Return the nearest parameters that the grid can run, differentiable in both bounds.

    Projecting is idempotent, bit for bit: `project(qparams.bounds, grid)` gives `qparams`. All is computed in float64,
    and the zero point with the scale as it is stored, in float32.

    >>> project(Bounds.of(0.5, 1.0), IntGrid(8)).bounds
    Bounds(0, 1)
    >>> project(Bounds.of(-1.0, 0.5), IntGrid(8, signed=True, symmetric=True, narrow_range=True)).bounds
    Bounds(-1, 1)
    """
    if grid.float_zero_point:
        return _project_real(bounds, grid)
    # Zero has to be a level: padding and ReLU write it.
    lower, upper = bounds.lower.double().clamp(max=0), bounds.upper.double().clamp(min=0)
    if grid.symmetric:
        scale = _scale(_symmetric_step(lower, upper, grid), grid)
        return QParams(scale, torch.zeros_like(scale), grid)
    scale = _scale((upper - lower) / grid.steps, grid)
    zero_point = (grid.qmin - round_through(lower / scale.double())).clamp(grid.qmin, grid.qmax)
    return QParams(scale, zero_point.float(), grid)


def _project_real(bounds: Bounds, grid: IntGrid) -> QParams:
    """Project as the paper does: the lower bound itself is a level, and zero need not be one."""
    lower, upper = bounds.lower.double(), bounds.upper.double()
    scale = _scale((upper - lower).clamp(min=0) / grid.steps, grid)
    return QParams(scale, (grid.qmin - lower / scale.double()).float(), grid)


def _symmetric_step(lower: Tensor, upper: Tensor, grid: IntGrid) -> Tensor:
    above = upper / grid.qmax
    return torch.maximum(lower / grid.qmin, above) if grid.signed else above


def _scale(step: Tensor, grid: IntGrid) -> Tensor:
    """Return the scale in float32 for a step in float64."""
    # Decide by the rounded step. By the exact one, a range near the limit could get scale 1 when projected again.
    stored = step.detach().float().double()
    scale = torch.where(stored * grid.steps > SMALLEST_RANGE, step, torch.ones_like(step))
    if grid.power_of_two:
        # Round up as a factor without gradient: the scale gets the gradient of the step, times that factor.
        scale = scale * (scale.log2().ceil().exp2() / scale).detach()
    if grid.half_scale:
        nearest = scale.detach().half().double().clamp(min=SMALLEST_HALF)
        scale = scale * (nearest / scale).detach()
    return scale.float()


def quantize(values: Tensor, qparams: QParams) -> Tensor:
    """Return the integers of a tensor, the same in PaC's forward pass and in every exported file.

    >>> quantize(torch.tensor([-2.0, 0.0, 0.4]), project(Bounds.of(-0.5, 1.0), IntGrid(8))).tolist()
    [0, 85, 153]
    """
    levels = Levels(qparams, values)
    return levels.clip_(levels.nearest(values)).to(torch.int32)


def dequantize(integers: Tensor, qparams: QParams) -> Tensor:
    """Return the real values of integers."""
    return Levels(qparams, integers).real_(integers.to(torch.float32, copy=True))


class Levels:
    """The levels of a grid, shaped for one tensor: from its values to the nearest integers, and back.

    It has the bits of torch's own kernels, since toolkits put these in the place of our quantizers: multiply by the
    reciprocal of the scale, round half to even, add the zero point. Dividing would round some ties differently.

    >>> levels = Levels(project(Bounds.of(-1.0, 1.0), IntGrid(2)), torch.zeros(3))
    >>> integers = levels.nearest(torch.tensor([-2.0, 0.0, 0.4]))
    >>> integers.tolist(), levels.real_(levels.clip_(integers)).tolist()
    ([-2.0, 1.0, 2.0], [-0.6666666865348816, 0.0, 0.6666666865348816])
    """

    def __init__(self, qparams: QParams, values: Tensor) -> None:
        self.grid = grid = qparams.grid
        self.scale = along(qparams.scale, values, grid)
        zero_point = along(qparams.zero_point, values, grid)
        # A real zero point is added before rounding, an integer one after. A zero point of 0 needs no pass.
        self.offset = zero_point * self.scale if grid.float_zero_point else None
        self.origin = None if grid.float_zero_point or grid.symmetric else zero_point
        self.ends = grid.qmin - 0.5, grid.qmax + 0.5
        """The ends between which an integer from `nearest` is on the grid. No integer lies on them."""

    def nearest(self, values: Tensor, out: Tensor | None = None) -> Tensor:
        """Return the nearest integers, not clipped to the grid, as floats in `out` or in a new tensor."""
        inverse = self.scale.reciprocal()
        if self.offset is not None:
            return torch.add(values, self.offset, out=out).mul_(inverse).round_()
        integers = torch.mul(values, inverse, out=out).round_()
        return integers if self.origin is None else integers.add_(self.origin)

    def clip_(self, integers: Tensor) -> Tensor:
        """Clip integers to the grid, in place."""
        return integers.clamp_(self.grid.qmin, self.grid.qmax)

    def real_(self, integers: Tensor) -> Tensor:
        """Turn integers into their real values, in place."""
        if self.origin is not None:
            integers.sub_(self.origin)
        values = integers.mul_(self.scale)
        return values if self.offset is None else values.sub_(self.offset)


def neighbors(values: Tensor, qparams: QParams) -> tuple[Tensor, Tensor]:
    """Return the levels below and above each value, for grids with a level at zero.

    >>> neighbors(torch.tensor([0.3]), project(Bounds.of(-1.0, 1.0), IntGrid(2)))
    (tensor([0.]), tensor([0.6667]))
    """
    step = along(qparams.scale, values, qparams.grid)
    below = (values / step).floor() * step
    return below, below + step


def along(parameter: Tensor, values: Tensor, grid: IntGrid) -> Tensor:
    """Reshape a parameter with one value for each channel so that it broadcasts along a tensor.

    >>> along(torch.ones(3), torch.zeros(2, 3, 8, 8), IntGrid(8, channel_axis=1)).shape
    torch.Size([1, 3, 1, 1])
    """
    if parameter.ndim == 0 or grid.channel_axis is None:
        return parameter
    shape = [1] * values.ndim
    shape[grid.channel_axis] = -1
    return parameter.reshape(shape)
