"""The records and protocols that plugins hand in: what the pipeline knows about a toolkit, a target or an observer."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, runtime_checkable

import numpy as np

from srptq_plugin.grid import Bounds, IntGrid

if TYPE_CHECKING:
    from onnx import ModelProto
    from torch import Tensor, nn
    from torch.export import ExportedProgram
    from torch.fx import GraphModule

    from srptq_plugin.graph import PreparedGraph
    from srptq_plugin.recipes.recipe import Recipe
    from srptq_plugin.registry import Registry
    from srptq_plugin.sites import Plan
    from srptq_plugin.table import QuantTable

Array = np.ndarray[Any, np.dtype[np.float32]]
T = TypeVar("T")
Size = tuple[int, int, int, int]
"""Batch, channels, height, width."""
Progress = Callable[[str, int, int], None]
"""Called with what is being done, how many steps are done, and how many there are."""


def quiet(_what: str, _done: int, _total: int) -> None:
    """The progress of those who watch nothing."""


class Observer(Protocol):
    """Batches of one tensor become bounds; it pickles, as processes that calibrate together exchange it."""

    def update(self, values: "Tensor") -> None:
        """Take in a batch; a NaN or an infinity raises `SrptqError`. Keep a copy: a network may work in place."""
        ...

    def merge(self, other: "Observer") -> None:
        """Take in what another observer of the same kind has seen, on another process say."""
        ...

    def bounds(self) -> Bounds:
        """The bounds by all batches so far, one pair or one for each channel; none seen raises `SrptqError`."""
        ...


class ObserverFactory(Protocol):
    """Makes an observer for a grid; keyword arguments are `places`, 1 unless given, and the recipe's options.

    Where the grid has an `axis` there are bounds for each channel along it, else one pair. So many tensors as `places`
    share one encoding: a batch is what that many calls of `update` hold. A `TypeError` or `SrptqError` is told as a
    mistake in the options; the first is made to find such, before any image is read.
    """

    def __call__(self, grid: IntGrid, *args: Any, **options: Any) -> Observer:
        """One that has seen nothing."""
        ...


class Toolkit(Protocol):
    """Realises a plan: puts fake-quantizers at its sites."""

    version: str
    """For the summary of a run."""

    def realise(self, program: "ExportedProgram", plan: "Plan") -> "PreparedGraph":
        """The exported network with `build_quantizer(plan, group)` at every site, and parameters of its own."""
        ...


@dataclass(frozen=True)
class Change:
    """What activating does to a toolkit: an entry in its tables, or a repair; or why not."""

    name: str
    summary: str
    skipped: str = ""


@runtime_checkable
class Adopter(Protocol):
    """A toolkit whose own fake-quantizers can start from bounds."""

    def adopt(self, quantizer: "nn.Module", bounds: Bounds) -> bool:
        """Start a fake-quantizer of this toolkit, ready to quantize. Return whether it is one."""
        ...


@runtime_checkable
class Host(Adopter, Protocol):
    """A toolkit that looks components up by name."""

    def activate(self, registry: "Registry") -> Sequence[Change]:
        """Put the registered components into the toolkit's tables, once; a name that is taken stays what it was."""
        ...

    def deactivate(self) -> None:
        """Take out what was put in."""
        ...

    def changes(self, registry: "Registry") -> Sequence[Change]:
        """What activating does, without doing it."""
        ...

    def bounded(self, model: "GraphModule") -> AbstractContextManager[object]:
        """Within `with`, ours in the place of every quantizer; afterwards a model's own have the bounds of ours."""
        ...

    def settings(self, recipe: "Recipe") -> Any:
        """What a plain script of this toolkit needs to follow a recipe."""
        ...


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

        >>> signed = IntGrid(8, signed=True, symmetric=True, narrow=True)
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


class Runtime(Protocol):
    """A written file in the target's real runtime."""

    name: str
    """What reports call it, with its version."""

    def __call__(self, image: "Array") -> "Array":
        """Run a [N, 3, H, W] batch, float32 in the network's own range, of any size unless the file has only one."""
        ...

    def integer_convs(self) -> int | None:
        """How many convolutions run in integers; `None` where that cannot be told, and then no speed is measured."""
        ...


@runtime_checkable
class Kernels(Protocol):
    """A runtime that knows its kernels."""

    def kernels(self) -> Mapping[str, int]:
        """Return how many integer convolutions each kernel runs, by the kernel's name."""
        ...

    def saturates(self) -> bool:
        """Tell whether kernels on this processor add two products in 16 bits, as those without VNNI do."""
        ...


class Target(Protocol):
    """A deployment target: its rules by preset, its writer, its runtime."""

    presets: Mapping[str, Rules]
    """By name, the default first."""
    exports: Mapping[str, Sequence[Any]]
    """What a recipe's `export` may say, and which values of each, the default first."""

    def require(self) -> None:
        """Raise `MissingRuntimeError` when what writing needs is not installed; asked before anything is read.

        The error takes the runtime's name and the command that installs it.
        """
        ...

    def write(self, network: Path, table: "QuantTable", folder: Path, *args: Any, **exports: Any) -> Sequence[Path]:
        """Write files into the folder, which is moved later; the first is the one to run, none is a simulation.

        They come from the float ONNX file and the table alone. Keywords are what `exports` names, and nothing more.
        """
        ...

    def load(self, artefact: Path) -> Runtime:
        """Load a written file, or the float ONNX file beside it, whose speed is compared.

        A runtime that is not installed raises `MissingRuntimeError`: nothing is verified then, and the run says so.
        """
        ...

    def command(self, artefact: Path, size: Size | None) -> str:
        """The vendor's next command line, ready to paste; empty where there is none.

        `size` is the only input size that the file takes. Without one the command names multiples of 64, which every
        network takes.
        """
        ...


@dataclass(frozen=True)
class Finding:
    """Where a file breaks a rule of its target, and what would be right.

    One that is not severe costs speed only; one `without_vnni` matters only to x86 processors that lack VNNI.
    """

    rule: str
    node: str
    problem: str
    cure: str
    severe: bool = True
    without_vnni: bool = False


@runtime_checkable
class Linter(Protocol):
    """A target that knows the rules of its files."""

    def lint(self, model: "ModelProto") -> Sequence[Finding]:
        """What is wrong with an ONNX file, from wherever it comes."""
        ...


class Reconstruction(Protocol):
    """Tunes what a prepared graph learns against its float self."""

    def __call__(
        self, prepared: "PreparedGraph", images: "Tensor", *, progress: Progress = quiet, **options: Any
    ) -> Mapping[str, float]:
        """Tune in place; returns the figures worth a line in the summary.

        Every site is observed and quantizes. `images` are all patches [N, 3, H, W] in the network's own range;
        `options` are the recipe's, and the recipe's `seed`. One that is not known raises `SrptqError`.
        """
        ...


@dataclass(frozen=True)
class Entry(Generic[T]):
    """What a plugin registers: a name, a line for people, and a callable that imports the thing when it is used.

    >>> Entry("dbdc", "density-based dual clipping", load=lambda: print).load()
    <built-in function print>
    """

    name: str
    """What recipes and commands say: letters, digits, `.`, `_` and `-`."""
    summary: str
    """Its line in `srptq plugins`."""
    load: Callable[[], T]
    """Called whenever it is used: import here what is slow, or may not be installed."""
    aliases: tuple[str, ...] = ()
    """Other names that recipes may say."""

    @property
    def names(self) -> tuple[str, ...]:
        """All that it is known by."""
        return (self.name, *self.aliases)


@dataclass(frozen=True)
class ToolkitEntry(Entry[Toolkit]):
    """A toolkit, by name."""

    host: bool = False
    """Whether it is a `Host` too: one that looks components up by name."""


class TargetEntry(Entry[Target]):
    """A target, by name."""


class ObserverEntry(Entry[ObserverFactory]):
    """An observer, by name."""


class ReconstructionEntry(Entry[Reconstruction]):
    """A reconstruction, by name."""


class QuantizerEntry(Entry[type[Any]]):
    """A subclass of `BoundedFakeQuantize`, by name."""


class ModelEntry(Entry[Any]):
    """A `ModelFamily` of networks, by name."""
