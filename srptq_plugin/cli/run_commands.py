"""The commands that make a run folder, or work on one."""

from argparse import Namespace
from collections.abc import Mapping
from dataclasses import asdict

from srptq_plugin.cli.evaluation_report import evaluation_report
from srptq_plugin.cli.reports import lint_report, run_report, verification_report
from srptq_plugin.cli.result import CHECK_FAILED, DONE, Answer
from srptq_plugin.utils.progress import Progress


def quantize(args: Namespace, progress: Progress) -> Answer:
    """Quantize a network and write a run folder. The folder stays even if its verification fails."""
    from srptq_plugin import pipeline  # noqa: PLC0415 - each command imports only what it needs

    run = pipeline.quantize(
        args.recipe,
        model=args.model,
        weights=args.weights,
        model_args=dict(args.model_args),
        images=args.images,
        scale=args.scale,
        out=args.out,
        overrides=args.set,
        input_size=args.input_size,
        input_range=args.input_range,
        output=args.output,
        allow_missing=args.allow_missing,
        toolkit=args.toolkit,
        resume=args.resume,
        device=args.device,
        max_drop=args.max_drop,
        data=args.data,
        progress=progress,
    )
    return Answer(run.summary, run_report(run.summary, args.out), _exit_code(run.summary["verify"]))


def train(args: Namespace, progress: Progress) -> Answer:
    """Train a calibrated run and write another one."""
    from srptq_plugin.qat.train_run import train_run  # noqa: PLC0415

    run = train_run(
        args.recipe,
        args.run,
        images=args.images,
        scale=args.scale,
        data=args.data,
        out=args.out,
        overrides=args.set,
        toolkit=args.toolkit,
        resume=args.resume,
        device=args.device,
        progress=progress,
    )
    return Answer(run.summary, run_report(run.summary, args.out), _exit_code(run.summary["verify"]))


def evaluate(args: Namespace, progress: Progress) -> Answer:
    """Score the outputs of a run against high-resolution images."""
    from srptq_plugin.evaluation import evaluate as evaluation  # noqa: PLC0415
    from srptq_plugin.runs.run import Run  # noqa: PLC0415
    from srptq_plugin.utils.atomic_file import check_file  # noqa: PLC0415
    from srptq_plugin.utils.distributed import is_first  # noqa: PLC0415

    run = Run.open(args.run)
    if args.csv:
        check_file("csv", args.csv)
    options = {"tile": args.tile, "overlap": args.overlap, "ensemble": args.ensemble, "strict": args.strict}
    scores = evaluation.evaluate(run, args.data, args.scale, progress, **options, device=args.device)
    if args.csv and is_first():
        scores.save(args.csv)
    return Answer(scores.record(), evaluation_report(scores.record()))


def verify(args: Namespace, progress: Progress) -> Answer:
    """Compare the simulation with the runtime."""
    from srptq_plugin.data.images import load_images  # noqa: PLC0415
    from srptq_plugin.runs import verify as verification  # noqa: PLC0415
    from srptq_plugin.runs.run import Run  # noqa: PLC0415

    run = Run.open(args.run)
    images = load_images(args.images) if args.images else None
    verified = verification.verify(run, images=images, progress=progress)
    return Answer(verified, verification_report(verified), _exit_code(verified))


def lint(args: Namespace, _progress: Progress) -> Answer:
    """Check an ONNX file against the rules of a target."""
    from srptq_plugin.runs import lint as linting  # noqa: PLC0415

    findings = linting.lint(args.file, args.target, encodings=args.encodings)
    data = {"file": str(args.file), "target": args.target, "findings": [asdict(finding) for finding in findings]}
    broken = any(finding.severe for finding in findings)
    return Answer(data, lint_report(args.target, findings), CHECK_FAILED if broken else DONE)


def _exit_code(verified: Mapping[str, object]) -> int:
    return DONE if verified["passed"] else CHECK_FAILED
