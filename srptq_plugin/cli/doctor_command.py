"""The command `doctor`, whose answer goes into bug reports."""

from argparse import Namespace
from dataclasses import asdict
from typing import TYPE_CHECKING

from srptq_plugin.cli.console import Cell, Facts, Mark, Table
from srptq_plugin.cli.result import CHECK_FAILED, DONE, Answer
from srptq_plugin.utils.progress import Progress

if TYPE_CHECKING:
    from srptq_plugin.doctor import Trial

CONVS = 3


def doctor(args: Namespace, progress: Progress) -> Answer:
    """List versions, and try the targets."""
    from srptq_plugin.doctor import describe_machine, installed_packages, try_targets  # noqa: PLC0415
    from srptq_plugin.plugins.registry import Registry  # noqa: PLC0415

    machine, packages = describe_machine(), installed_packages()
    plugins = [str(info) for info in Registry().plugins()]
    trials = try_targets(args.target, progress)
    there = ", ".join(f"{name} {number}" for name, number in packages.items() if number)
    missing = ", ".join(name for name, number in packages.items() if not number)
    lists = [("packages", there), ("not installed", missing or "none"), *(("plugin", plugin) for plugin in plugins)]
    columns = ["target", "runtime", "integers", "two products add in", "note"]
    data = {
        "machine": machine,
        "packages": packages,
        "plugins": plugins,
        "targets": [asdict(trial) for trial in trials],
    }
    report = [Facts([*machine.items(), *lists]), Table(columns, [_row(trial) for trial in trials], wordy=1)]
    return Answer(data, report, CHECK_FAILED if any(trial.passed is False for trial in trials) else DONE)


def _row(trial: "Trial") -> list[Cell]:
    integers = "" if trial.integers is None else f"{trial.integers} of {CONVS}"
    bits = "" if trial.saturates is None else f"{16 if trial.saturates else 32} bits"
    verdict: Cell = trial.runtime or "not run"
    if trial.passed is not None:
        verdict = Mark(trial.runtime or "failed", good=trial.passed)
    return [trial.target, verdict, integers, bits, trial.note]
