"""The contracts between the pipeline and plugins: observers, reconstructions, toolkits, targets and their runtimes.

A plugin subclasses none of them. A class or function with the right methods fulfills its contract. The contract of
quantizers is `TrainableQuantizer` in `srptq_plugin/quantization/trainable.py`.

Options are keyword arguments. The `*args: Any` before them is for type checkers only: with it they accept a plugin that
names its options.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from srptq_plugin.graph.rules import Rules
from srptq_plugin.graph.types import Array, Reals, Size
from srptq_plugin.quantization.grid import IntGrid
from srptq_plugin.quantization.observer import Observer
from srptq_plugin.utils.progress import Progress, quiet

if TYPE_CHECKING:
    from onnx import ModelProto
    from torch import Tensor
    from torch.export import ExportedProgram

    from srptq_plugin.deploy.quant_table import QuantTable
    from srptq_plugin.planning.plan import Plan
    from srptq_plugin.planning.prepared_graph import PreparedGraph


class ObserverFactory(Protocol):
    """A callable that makes observers: usually the observer's class.

    It is called once for each group of sites that share a scale. Before any image is read it is called once more, to
    find mistakes in the options: a `TypeError` or `SrptqError` is reported as a mistake in the recipe.
    """

    def __call__(self, grid: IntGrid, *args: Any, **options: Any) -> Observer:
        """Make an observer that has seen no tensor.

        Args:
            grid: the integers of the target. With a `channel_axis` the observer returns bounds for each channel,
                otherwise one pair.
            options: the recipe's options, validated. Besides them, `tensors_per_batch` (1 by default) says how many
                tensors share the observer: one batch is that many consecutive `update()` calls.
        """
        ...


class Reconstruction(Protocol):
    """A function that tunes the weights or bounds of a calibrated network, to bring it closer to the float network.

    With a parameter `checkpoint` it can go on after a stop. It is given a `Checkpoint`, or None. If the checkpoint
    `exists`, `restore(function)` passes the saved state to a function of yours. `save(state)` writes a dictionary of
    tensors, numbers, texts, lists and dictionaries.
    """

    def __call__(
        self,
        prepared: "PreparedGraph",
        images: "Tensor",
        *args: Any,
        progress: Progress = quiet,
        seed: int = 0,
        **options: Any,
    ) -> Mapping[str, float]:
        """Tune the network in place. Return figures for the summary of the run, by name.

        Args:
            prepared: the network. Every quantizer has bounds and is in mode QUANTIZE.
            images: all calibration patches, [N, 3, H, W] in the network's own range.
            progress: takes the name of a phase, the number of steps done, and the number of all steps.
            seed: the recipe's seed, for every random draw.
            options: the recipe's options, validated.
        """
        ...


class Toolkit(Protocol):
    """A toolkit that inserts fake-quantizers into an exported network."""

    version: str
    """The version of the toolkit, for the summary of a run."""

    def realize(self, program: "ExportedProgram", plan: "Plan") -> "PreparedGraph":
        """Insert the quantizer of each group of sites, as built by `build_quantizer(plan, group)`.

        Return a network with parameters of its own: tuning it must not change the program.
        """
        ...


class Runtime(Protocol):
    """A written file, loaded in the target's runtime."""

    name: str
    """The runtime's name and version, such as `onnxruntime 1.20`, for reports."""

    def __call__(self, image: "Array") -> "Array":
        """Run a batch of images: [N, 3, H, W], float32, in the network's own range.

        Images have any size, unless the file takes only one.
        """
        ...

    def integer_convs(self) -> int | None:
        """Count the convolutions that run in integers. Return None if the runtime does not report it.

        Speed is measured only if the count is known.
        """
        ...


@runtime_checkable
class Kernels(Protocol):
    """A runtime that also reports which kernels it chose."""

    def kernels(self) -> Mapping[str, int]:
        """Return the number of integer convolutions that each kernel runs, by the kernel's name."""
        ...

    def saturates(self) -> bool:
        """Tell whether kernels on this processor add two products in saturating 16-bit integers.

        Kernels for x86 do so without VNNI.
        """
        ...


@runtime_checkable
class EmulatedRuntime(Protocol):
    """A runtime that computes what other hardware computes. Its speed means nothing."""

    hardware: str
    """The hardware that it emulates."""


class Target(Protocol):
    """A deployment target: its rules, a writer of its files, and the runtime that runs them."""

    presets: Mapping[str, Rules]
    """The rules by name of the preset, the default first."""

    def require(self) -> None:
        """Check that everything that `write` needs is installed. Called before anything is read.

        Raises:
            MissingRuntimeError: something is missing. The error takes its name and the command that installs it.
        """
        ...

    def write(self, network: Path, table: "QuantTable", folder: Path, *args: Any, **options: Any) -> Sequence[Path]:
        """Write the target's files. Return their paths: first the file to run, then the others.

        Args:
            network: the float network as ONNX. The written files depend on it and on the table alone. The folder has
                the same network as a program of torch.export, `model.pt2`, for images of any size if it takes them.
            table: scale and zero point of each site, and the integers of each weight.
            folder: the folder to write to. It is renamed when the run is complete, so no file may contain its path.
            options: the options under `export` in the recipe, validated.
        """
        ...

    def load(self, artifact: Path) -> Runtime:
        """Load a file into the runtime: the first that `write` returned, or the float ONNX file to compare speed.

        Raises:
            MissingRuntimeError: the runtime is not installed. The run then says that its file was not verified.
        """
        ...

    def command(self, artifact: Path, size: Size, *, fixed: bool) -> str:
        """Return the vendor's command that compiles or runs the file, ready to paste. Empty if there is none.

        Args:
            artifact: the first file that `write` returned.
            size: batch, channels, height and width of an input that the file takes.
            fixed: whether the file takes no other size.
        """
        ...


class Inspection(Protocol):
    """A written file in the target's runtime, with the tensors between its operations."""

    def __call__(self, image: "Array") -> "tuple[Array, Mapping[str, Reals]]":
        """Run a batch of images, as `Runtime` does.

        Returns:
            The output, and the activations that the kernels wrote as integers, in real numbers, by site.
        """
        ...


@runtime_checkable
class Inspectable(Protocol):
    """A target whose runtime hands out the tensors between operations, for `srptq report`."""

    def inspect(self, artifacts: Sequence[Path], table: "QuantTable") -> Inspection:
        """Load the files that `write` returned, such that the runtime keeps its tensors.

        The runtime should run the same kernels as without. The report compares the outputs.

        Raises:
            MissingRuntimeError: the runtime is not installed.
        """
        ...


@runtime_checkable
class Adaptable(Protocol):
    """A target whose rules follow from the options of `export`, too."""

    def adapt(self, rules: Rules, **options: Any) -> Rules:
        """Return the rules of a preset as they are with these options of `write`."""
        ...


@runtime_checkable
class Checker(Protocol):
    """A target that tells before a calibration whether it can write a network."""

    def check(self, network: "ModelProto") -> None:
        """Look for operations that `write` would refuse, in the float network before its channels are scaled.

        Raises:
            SrptqError: there is one. The message names it, its place, and the cure.
        """
        ...


@dataclass(frozen=True)
class Finding:
    """A place where a file breaks a rule of its target."""

    rule: str
    """The name of the rule."""
    node: str
    """The node of the file that breaks it."""
    problem: str
    """The problem, in one sentence."""
    cure: str
    """The change that solves it."""
    severe: bool = True
    """Whether results are wrong or the file does not run. Otherwise the problem costs speed, or a little accuracy."""
    without_vnni: bool = False
    """Whether it matters only to x86 processors without VNNI."""


@runtime_checkable
class Linter(Protocol):
    """A target that also checks ONNX files, its own and the files of other tools."""

    def lint(self, model: "ModelProto") -> Sequence[Finding]:
        """Check a model against the rules of the target. Return one finding for each problem."""
        ...


@runtime_checkable
class PairLinter(Protocol):
    """A target that checks ONNX files together with the encodings of their tensors, its own and others."""

    def lint_pair(self, model: "ModelProto", encodings: Path) -> Sequence[Finding]:
        """Check a model and its encodings. Return one finding for each problem."""
        ...
