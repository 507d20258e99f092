"""The commands of `srptq`, one record each."""

from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from dataclasses import dataclass
from pkgutil import resolve_name
from typing import TYPE_CHECKING

from srptq_plugin.cli import command_options, help_texts

if TYPE_CHECKING:
    from srptq_plugin.cli.result import Answer
    from srptq_plugin.utils.progress import Progress

    Runner = Callable[[Namespace, Progress], Answer]


@dataclass(frozen=True)
class Command:
    """A command: its help, its options, and the function that runs it.

    `function` is `module:name` within `srptq_plugin.cli`. It is imported only when the command runs, so that
    `srptq --help` answers without torch.
    """

    name: str
    summary: str
    add_options: Callable[[ArgumentParser], None]
    function: str
    about: str = ""
    shared: bool = False
    """Whether several processes share its work. Of other commands the first process does all."""

    @property
    def description(self) -> str:
        """The text above the options in `--help`."""
        return self.about or f"{self.summary[0].upper()}{self.summary[1:]}."

    def load(self) -> "Runner":
        """Import the function that runs this command."""
        return resolve_name(f"srptq_plugin.cli.{self.function}")


COMMANDS = (
    Command(
        "quantize",
        "quantize a network and write a run folder",
        command_options.quantize,
        "run_commands:quantize",
        help_texts.QUANTIZE,
        shared=True,
    ),
    Command(
        "train",
        "train a calibrated run, with or without labels, and write another run",
        command_options.train,
        "run_commands:train",
        help_texts.TRAIN,
        shared=True,
    ),
    Command(
        "evaluate",
        "compute PSNR and SSIM of bicubic, float, simulation and runtime",
        command_options.evaluate,
        "run_commands:evaluate",
        help_texts.EVALUATE,
        shared=True,
    ),
    Command(
        "verify",
        "compare the simulation with the real runtime; exits with 1 if they differ",
        command_options.verify,
        "run_commands:verify",
        help_texts.VERIFY,
    ),
    Command(
        "analyze",
        "measure what each stage, block and site costs the image",
        command_options.analyze,
        "analyze_command:analyze",
        help_texts.ANALYZE,
        shared=True,
    ),
    Command(
        "plot",
        "draw an analysis, or the values and bounds of a site; needs matplotlib",
        command_options.plot,
        "plot_command:plot",
        help_texts.PLOT,
    ),
    Command(
        "report",
        "write an HTML page by which to judge a run, or to compare several",
        command_options.report,
        "report_command:report",
        help_texts.REPORT,
    ),
    Command(
        "cost",
        "count arithmetic, bytes and memory, quantized and in float",
        command_options.cost,
        "analyze_command:cost",
        help_texts.COST,
    ),
    Command(
        "lint",
        "check any ONNX file against a target's rules; exits with 1 if it breaks one",
        command_options.lint,
        "run_commands:lint",
        help_texts.LINT,
    ),
    Command(
        "recipes",
        "list the recipes that come with the package, print one, or list all keys",
        command_options.recipes,
        "catalog:recipes",
        help_texts.RECIPES,
    ),
    Command("targets", "list the deployment targets and what they allow", command_options.nothing, "catalog:targets"),
    Command("plugins", "list the plugins and what they register", command_options.nothing, "catalog:plugins"),
    Command(
        "doctor",
        "list versions, and try which targets run integers on this processor",
        command_options.doctor,
        "doctor_command:doctor",
        help_texts.DOCTOR,
    ),
    Command(
        "completion",
        "print a script by which a shell completes commands and options",
        command_options.completion,
        "completion_command:completion",
        help_texts.COMPLETION,
    ),
)
BY_NAME = {command.name: command for command in COMMANDS}
