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
    from srptq_plugin.recipe import Recipe
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
    """Batches of one tensor become bounds."""

    def update(self, values: "Tensor") -> None:
        """Take in a batch; a NaN or an infinity raises `SrptqError`."""
        ...

    def merge(self, other: "Observer") -> None:
        """Take in what another observer of the same kind has seen, on another process say."""
        ...

    def bounds(self) -> Bounds:
        """The bounds by all batches so far; none seen raises `SrptqError`."""
        ...


class ObserverFactory(Protocol):
    """Makes an observer for a grid; keyword arguments are the recipe's options."""

    def __call__(self, grid: IntGrid, *args: Any, **options: Any) -> Observer: ...


class Toolkit(Protocol):
    """Realises a plan: puts fake-quantizers at its sites."""

    version: str

    def realise(self, program: "ExportedProgram", plan: "Plan") -> "PreparedGraph":
        """The prepared graph of the exported network."""
        ...


@dataclass(frozen=True)
class Change:
    """What activating does to a toolkit: an entry in its tables, or a repair; or why not."""

    name: str
    summary: str
    skipped: str = ""


@runtime_checkable
class Host(Protocol):
    """A toolkit that looks components up by name, and whose own quantizers can start from bounds."""

    def activate(self, registry: "Registry") -> Sequence[Change]:
        """Put the registered components into the toolkit's tables, once; a name that is taken stays what it was."""
        ...

    def deactivate(self) -> None:
        """Take out what was put in."""
        ...

    def changes(self, registry: "Registry") -> Sequence[Change]:
        """What activating does, without doing it."""
        ...

    def adopt(self, quantizer: "nn.Module", bounds: Bounds) -> bool:
        """Start a fake-quantizer of this toolkit from bounds, ready to quantize; whether it is one."""
        ...

    def bounded(self, model: "GraphModule") -> AbstractContextManager[object]:
        """Within `with`, ours in the place of every quantizer; afterwards a model's own have the bounds of ours."""
        ...

    def settings(self, recipe: "Recipe") -> Any:
        """What a plain script of this toolkit needs to follow a recipe."""
        ...


@dataclass(frozen=True)
class Rules:
    """What a target allows, and where it wants quantizers.

    `placements` names the placements it runs, its default first. `inputs` and `outputs` are the
    operations whose inputs or outputs are quantized under `full`; `fused` are those that a runtime
    computes inside the operation before them, so that the quantizer comes after them; `fused_in_conv` only
    where that is a convolution. With `joins_in_conv`
    a runtime adds the skip while it computes the convolution: the branch that comes straight from one has
    no quantizer of its own. With `integer_bias` biases are 32-bit integers at the scale of the products. With
    `one_encoding` all readers of a tensor read the same integers. Without `per_channel` weights have one scale.
    `head_weight_bits` is the most that weights of the first convolutions may have. With `sign_bit` a recipe's bits are
    those of the magnitude, and a signed grid has one more.
    """

    weights: IntGrid
    activations: IntGrid
    weight_bits: frozenset[int]
    activation_bits: frozenset[int]
    placements: tuple[str, ...] = ("full", "convs")
    inputs: frozenset[str] = frozenset({"conv", "add", "cat"})
    outputs: frozenset[str] = frozenset({"conv", "add", "cat"})
    fused: frozenset[str] = frozenset({"relu"})
    fused_in_conv: frozenset[str] = frozenset()
    shared_concat: bool = False
    joins_in_conv: bool = False
    integer_bias: bool = False
    one_encoding: bool = False
    per_channel: bool = True
    head_weight_bits: int | None = None
    unsigned_if_nonnegative: bool = False
    sign_bit: bool = False
    integer_bits: frozenset[int] = frozenset({8})

    def sized(self, grid: IntGrid, bits: int) -> IntGrid:
        """A grid with a recipe's number of bits.

        >>> signed = IntGrid(8, signed=True, symmetric=True, narrow=True)
        >>> Rules(signed, signed, frozenset({4}), frozenset({4}), sign_bit=True).sized(signed, 4).qmax
        15
        """
        return grid.at(bits + (self.sign_bit and grid.signed))

    def named(self, grid: IntGrid) -> int:
        """The number of bits by which a recipe names a grid, `sized` undone."""
        return grid.bits - (self.sign_bit and grid.signed)


class Runtime(Protocol):
    """A written file in the target's real runtime."""

    name: str

    def __call__(self, image: "Array") -> "Array":
        """Run a [N, 3, H, W] batch."""
        ...

    def integer_convs(self) -> int | None:
        """How many convolutions the execution graph runs in integers; none where another program reads the file."""
        ...


class Target(Protocol):
    """A deployment target: its rules by preset, its writer, its runtime."""

    presets: Mapping[str, Rules]
    """By name, the default first."""
    exports: Mapping[str, Sequence[Any]]
    """What a recipe's `export` may say, and which values of each, the default first."""

    def require(self) -> None:
        """Raise `MissingRuntimeError` when what writing needs is not installed."""
        ...

    def write(self, network: Path, table: "QuantTable", folder: Path, *args: Any, **exports: Any) -> Sequence[Path]:
        """Write the artefacts from the float ONNX file and the table; the first is the one to run.

        A target takes what its `exports` name as keywords, and nothing more.
        """
        ...

    def load(self, artefact: Path) -> Runtime:
        """Load a written file, or any float ONNX file; one that is not installed raises `MissingRuntimeError`."""
        ...

    def command(self, artefact: Path, size: Size | None) -> str:
        """The vendor's next command line, ready to paste; empty where there is none.

        `size` is the only input size that the file takes; none when it takes any.
        """
        ...


@dataclass(frozen=True)
class Finding:
    """Where a file breaks a rule of its target, and what would be right; one that is not severe costs speed only."""

    rule: str
    node: str
    problem: str
    cure: str
    severe: bool = True


@runtime_checkable
class Linter(Protocol):
    """A target that knows the rules of its files."""

    def lint(self, model: "ModelProto") -> Sequence[Finding]:
        """What is wrong with an ONNX file, from wherever it comes."""
        ...


class Reconstruction(Protocol):
    """Tunes the bounds of a prepared graph against its float self."""

    def __call__(
        self, prepared: "PreparedGraph", images: "Tensor", *, progress: Progress = quiet, **options: Any
    ) -> Mapping[str, float]:
        """Tune in place; returns the figures worth a line in the summary."""
        ...


@dataclass(frozen=True)
class Entry(Generic[T]):
    """What a plugin registers: a name, a line for people, and a callable that imports the thing when it is used.

    >>> Entry("dbdc", "density-based dual clipping", load=lambda: print).load()
    <built-in function print>
    """

    name: str
    summary: str
    load: Callable[[], T]
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True)
class ToolkitEntry(Entry[Toolkit]):
    """A toolkit, by name; `host` says that it is a `Host` too."""

    host: bool = False


class TargetEntry(Entry[Target]):
    """A target, by name."""


class ObserverEntry(Entry[ObserverFactory]):
    """An observer, by name."""


class ReconstructionEntry(Entry[Reconstruction]):
    """A reconstruction, by name."""


class QuantizerEntry(Entry[type[Any]]):
    """A fake-quantizer class, by name."""


class ModelEntry(Entry[Any]):
    """A family of networks, by name."""
