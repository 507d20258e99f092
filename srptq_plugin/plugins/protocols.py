"""What the pipeline knows about an observer, a toolkit, a target or a reconstruction."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from srptq_plugin.graph.rules import Rules
from srptq_plugin.graph.types import Array, Size
from srptq_plugin.quantization.grid import Bounds, IntGrid
from srptq_plugin.quantization.observer import Observer
from srptq_plugin.utils.progress import Progress, quiet

if TYPE_CHECKING:
    from onnx import ModelProto
    from torch import Tensor, nn
    from torch.export import ExportedProgram
    from torch.fx import GraphModule

    from srptq_plugin.deploy.quant_table import QuantTable
    from srptq_plugin.planning.plan import Plan
    from srptq_plugin.planning.prepared_graph import PreparedGraph
    from srptq_plugin.plugins.registry import Registry


class ObserverFactory(Protocol):
    """Makes an observer for a grid, with the recipe's options as keyword arguments.

    If the grid has a `channel_axis`, the observer returns bounds for each channel, else one pair. The keyword argument
    `tensors_per_batch` (1 by default) says how many tensors share the observer: one batch is that many consecutive
    `update()` calls. A `TypeError` or `SrptqError` is reported as a mistake in the recipe's options. One observer is
    made before any image is read to find such mistakes.
    """

    def __call__(self, grid: IntGrid, *args: Any, **options: Any) -> Observer:
        """One that has seen nothing."""
        ...


class Toolkit(Protocol):
    """Realizes a plan: puts fake-quantizers at its sites."""

    version: str
    """For the summary of a run."""

    def realize(self, program: "ExportedProgram", plan: "Plan") -> "PreparedGraph":
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

    def owns(self, quantizer: "nn.Module") -> bool:
        """Tell whether a quantizer is a fake-quantizer of this toolkit. Only such reach the other methods."""
        ...

    def channel_axis(self, quantizer: "nn.Module") -> int | None:
        """Return the axis along which a fake-quantizer has bounds for each channel, or `None` for one pair."""
        ...

    def adopt(self, quantizer: "nn.Module", bounds: Bounds) -> bool:
        """Start a fake-quantizer from bounds, ready to quantize. Return whether this toolkit can."""
        ...

    def observe(self, quantizer: "nn.Module") -> None:
        """Let a fake-quantizer observe, and quantize nothing."""
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

    def require(self) -> None:
        """Raise `MissingRuntimeError` when what writing needs is not installed; asked before anything is read.

        The error takes the runtime's name and the command that installs it.
        """
        ...

    def write(self, network: Path, table: "QuantTable", folder: Path, *args: Any, **options: Any) -> Sequence[Path]:
        """Write files into the folder, which is moved later; the first is the one to run, none is a simulation.

        They come from the float ONNX file and the table alone. Keywords are the options of the target's entry.
        """
        ...

    def load(self, artifact: Path) -> Runtime:
        """Load a written file, or the float ONNX file beside it, whose speed is compared.

        A runtime that is not installed raises `MissingRuntimeError`: nothing is verified then, and the run says so.
        """
        ...

    def command(self, artifact: Path, size: Size | None) -> str:
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
        self, prepared: "PreparedGraph", images: "Tensor", *, progress: Progress = quiet, seed: int = 0, **options: Any
    ) -> Mapping[str, float]:
        """Tune in place; returns the figures worth a line in the summary.

        Every site is observed and quantizes. `images` are all patches [N, 3, H, W] in the network's own range;
        `options` are the recipe's, and the recipe's `seed`. One that is not known raises `SrptqError`.
        """
        ...
