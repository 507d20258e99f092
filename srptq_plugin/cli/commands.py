"""The commands: what was asked for, done, and the answer."""

from argparse import Namespace
from collections.abc import Callable, Mapping
from dataclasses import asdict

from srptq_plugin.cli.analyze_command import analyze, cost
from srptq_plugin.cli.catalog import plugins, recipes, targets
from srptq_plugin.cli.plot_command import plot
from srptq_plugin.cli.reports import evaluation_report, lint_report, run_report, verification_report
from srptq_plugin.cli.result import CHECK_FAILED, DONE, Answer
from srptq_plugin.utils.progress import Progress

Command = Callable[[Namespace, Progress], Answer]


def quantize(asked: Namespace, progress: Progress) -> Answer:
    """Write a run folder; it stays when the verifying at its end fails."""
    from srptq_plugin import pipeline  # noqa: PLC0415 - `srptq recipes` needs none of it

    run = pipeline.quantize(
        asked.recipe,
        model=asked.model,
        weights=asked.weights,
        model_args=dict(asked.model_args),
        images=asked.images,
        scale=asked.scale,
        out=asked.out,
        overrides=asked.set,
        input_size=asked.input_size,
        input_range=asked.input_range,
        toolkit=asked.toolkit,
        device=asked.device,
        progress=progress,
    )
    return Answer(run.summary, run_report(run.summary, asked.out), _verdict(run.summary["verify"]))


def train(asked: Namespace, progress: Progress) -> Answer:
    """Train from a calibrated run and write another."""
    from srptq_plugin.qat.train_run import train_run  # noqa: PLC0415

    run = train_run(
        asked.recipe,
        asked.run,
        images=asked.images,
        scale=asked.scale,
        data=asked.data,
        out=asked.out,
        overrides=asked.set,
        toolkit=asked.toolkit,
        resume=asked.resume,
        device=asked.device,
        progress=progress,
    )
    return Answer(run.summary, run_report(run.summary, asked.out), _verdict(run.summary["verify"]))


def evaluate(asked: Namespace, progress: Progress) -> Answer:
    """Score the outputs against high-resolution images."""
    from srptq_plugin.evaluation import evaluate as evaluating  # noqa: PLC0415
    from srptq_plugin.runs.run import Run  # noqa: PLC0415
    from srptq_plugin.utils.atomic_file import check_file  # noqa: PLC0415

    run = Run.open(asked.run)
    if asked.csv:
        check_file("--csv", asked.csv)
    how = {"tile": asked.tile, "overlap": asked.overlap, "ensemble": asked.ensemble, "strict": asked.strict}
    found = evaluating.evaluate(run, asked.data, asked.scale, progress, **how, device=asked.device)
    if asked.csv:
        found.save(asked.csv)
    return Answer(found.record(), evaluation_report(found.record()))


def verify(asked: Namespace, progress: Progress) -> Answer:
    """Hold the runtime against the simulation."""
    from srptq_plugin.data.images import load_images  # noqa: PLC0415
    from srptq_plugin.runs import verify as verifying  # noqa: PLC0415
    from srptq_plugin.runs.run import Run  # noqa: PLC0415

    run = Run.open(asked.run)
    images = load_images(asked.images) if asked.images else None
    found = verifying.verify(run, images=images, progress=progress)
    return Answer(found, verification_report(found), _verdict(found))


def lint(asked: Namespace, _progress: Progress) -> Answer:
    """Check a file against the rules of a target."""
    from srptq_plugin.runs import lint as linting  # noqa: PLC0415

    findings = linting.lint(asked.file, asked.target)
    data = {"file": str(asked.file), "target": asked.target, "findings": [asdict(each) for each in findings]}
    broken = any(each.severe for each in findings)
    return Answer(data, lint_report(asked.target, findings), CHECK_FAILED if broken else DONE)


def _verdict(verified: Mapping[str, object]) -> int:
    return DONE if verified["passed"] else CHECK_FAILED


COMMANDS: Mapping[str, Command] = {
    "quantize": quantize,
    "train": train,
    "evaluate": evaluate,
    "verify": verify,
    "analyze": analyze,
    "plot": plot,
    "cost": cost,
    "lint": lint,
    "recipes": recipes,
    "targets": targets,
    "plugins": plugins,
}
