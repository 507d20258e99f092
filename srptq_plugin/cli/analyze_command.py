"""The commands `analyze` and `cost`, which take a run folder, or a recipe and a network."""

import json
from argparse import Namespace
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from srptq_plugin.analysis import ANALYSIS, BUDGET
from srptq_plugin.cli.analysis_report import analysis_report, precision_report
from srptq_plugin.cli.cost_command import cost_report
from srptq_plugin.cli.result import Answer, strict
from srptq_plugin.errors import ArgumentError, SrptqError
from srptq_plugin.recipes import DEFAULT_RECIPE
from srptq_plugin.utils.progress import Progress

if TYPE_CHECKING:
    from torch import Tensor

    from srptq_plugin.analysis.allocate import Measure
    from srptq_plugin.calibration.inputs import Inputs, Source
    from srptq_plugin.runs.run import Run

OF_A_RUN = ("recipe", "set", "model", "weights", "model_args", "input_range", "output", "allow_missing")
"""Options that a run folder has its own values for."""


def analyze(args: Namespace, progress: Progress) -> Answer:
    """Measure what each part costs, or choose bits for a budget."""
    run = _run(args)
    return _sensitivity(args, run, progress) if args.budget is None else _precision(args, run, progress)


def cost(args: Namespace, _progress: Progress) -> Answer:
    """Count arithmetic, bytes and memory of a run, or of a network as a recipe would quantize it."""
    from srptq_plugin.costs.estimate import Estimate  # noqa: PLC0415
    from srptq_plugin.plugins.registry import Registry  # noqa: PLC0415
    from srptq_plugin.recipes.recipe import Recipe  # noqa: PLC0415

    run = _run(args)
    if run is not None:
        estimate = Estimate.of_run(run, args.input_size, _images(run, args.images) if args.images else ())
    else:
        if args.images:
            raise ArgumentError("images", "channels are measured in a run; give its folder", args.images)
        registry = Registry()
        recipe = Recipe.load(args.recipe or DEFAULT_RECIPE, args.set)
        loaded = _source(args).load(registry, args.input_size)
        estimate = Estimate.of_recipe(recipe, loaded, registry, args.input_size)
    return Answer(estimate.record(), cost_report(estimate.record()))


def _images(run: "Run", folder: Path) -> "Iterator[Tensor]":
    """Yield the images of a folder as the network of a run takes them."""
    from srptq_plugin.data.images import fitted, load_images, to_tensor  # noqa: PLC0415

    for image in load_images(folder):
        pixels = fitted(image.pixels, run.record.multiple)
        yield to_tensor(pixels[None], run.input_range, run.record.channels)


def _sensitivity(args: Namespace, run: "Run | None", progress: Progress) -> Answer:
    from srptq_plugin.analysis.analyze import analyze as analyze_parts  # noqa: PLC0415 - loads torch
    from srptq_plugin.analysis.kept_rows import KeptRows  # noqa: PLC0415
    from srptq_plugin.analysis.subject import Subject  # noqa: PLC0415
    from srptq_plugin.evaluation.pairs import load_pairs  # noqa: PLC0415

    out = _file_to_write(args, run, ANALYSIS)
    if run is not None:
        subject = Subject.of_run(run, args.images, args.scale, args.patches)
    else:
        subject = Subject.of_model(_inputs(args, run), args.patches, progress)
    pairs = load_pairs(args.data, subject.record.scale).usable if args.data else ()
    rows = KeptRows(_rows_file(out), resume=args.resume)
    analysis = analyze_parts(subject, pairs, args.by, progress, rows).record()
    _write_json(analysis, out)
    rows.remove()
    return Answer(analysis, analysis_report(analysis, out))


def _file_to_write(args: Namespace, run: "Run | None", name: str) -> Path:
    """Return the file for the answer. Check it first, as measuring takes long."""
    from srptq_plugin.utils.atomic_file import check_file  # noqa: PLC0415

    out = args.out or (run.folder / name if run else Path(name))
    check_file("out", out)
    return out


def _rows_file(out: Path) -> Path:
    """Return the file where measurements are kept until the analysis is written."""
    return out.with_name(f"{out.name}.rows")


def _write_json(record: Mapping[str, Any], out: Path) -> None:
    _write(out, json.dumps(strict(record), indent=1) + "\n")


def _write(out: Path, text: str) -> None:
    from srptq_plugin.utils.atomic_file import atomic_file  # noqa: PLC0415
    from srptq_plugin.utils.distributed import is_first  # noqa: PLC0415

    if is_first():
        with atomic_file(out) as draft:
            draft.write_text(text)


def _precision(args: Namespace, run: "Run | None", progress: Progress) -> Answer:
    from srptq_plugin.analysis.kept_rows import KeptRows  # noqa: PLC0415
    from srptq_plugin.analysis.precision import Budget, Precision  # noqa: PLC0415
    from srptq_plugin.analysis.widths import at_every_width, mixed_recipe  # noqa: PLC0415
    from srptq_plugin.evaluation.pairs import load_pairs  # noqa: PLC0415
    from srptq_plugin.utils.atomic_file import check_file  # noqa: PLC0415

    out = _file_to_write(args, run, BUDGET)
    check_file("recipe_out", args.recipe_out)
    inputs = _inputs(args, run)
    pairs = load_pairs(args.data, inputs.loaded.record.scale).usable if args.data else ()
    rows = KeptRows(_rows_file(out), resume=args.resume)
    uniforms = at_every_width(inputs, args.patches, args.bits, progress, rows)
    precision = Precision(uniforms, "stage" if args.by == ["stage"] else "site", pairs)
    mixture = precision.within(Budget(*args.budget))
    _write(args.recipe_out, mixed_recipe(inputs, uniforms[0].subject.table.plan, mixture.bits).to_yaml())
    measure: Measure = "size" if args.budget[0] == "size" else "bops"
    curve = {"measure": measure, "mixtures": [point.point() for point in precision.curve(measure)]}
    data = precision.record() | {"budget": dict([args.budget]), "mixed": mixture.record(), "curve": curve}
    _write_json(data, out)
    rows.remove()
    return Answer(data, precision_report(data, args.recipe_out, out))


def _inputs(args: Namespace, run: "Run | None") -> "Inputs":
    from srptq_plugin.calibration.inputs import Inputs  # noqa: PLC0415
    from srptq_plugin.plugins.bound_recipe import BoundRecipe  # noqa: PLC0415
    from srptq_plugin.plugins.registry import Registry  # noqa: PLC0415

    if run is not None:
        return Inputs.of_run(run, args.images, args.scale, args.device)
    registry = Registry()
    recipe = args.recipe or DEFAULT_RECIPE
    bound = BoundRecipe.resolve(recipe, registry, overrides=args.set, images=args.images, scale=args.scale)
    return Inputs.load(bound, _source(args), args.device)


def _run(args: Namespace) -> "Run | None":
    """Open the run folder, or return None if the subject names a network."""
    from srptq_plugin.models.loading import is_network_file  # noqa: PLC0415
    from srptq_plugin.runs.run import Run  # noqa: PLC0415

    if args.subject is None:
        return None
    # a bare word or a network's file that is no folder is a network
    # anything else with a slash is a run folder, even if it is missing
    is_network = is_network_file(args.subject) or Path(args.subject).name == args.subject
    if is_network and not Path(args.subject).is_dir():
        _refuse_options(args, ["model"], "a network")
        return None
    _refuse_options(args, OF_A_RUN, "a run, which has its own")
    return Run.open(args.subject)


def _refuse_options(args: Namespace, names: Iterable[str], what: str) -> None:
    options = [f"--{name.replace('_', '-')}" for name in names if getattr(args, name)]
    if options:
        raise SrptqError(f"{', '.join(options)}: {args.subject} is {what}; give one or the other")


def _source(args: Namespace) -> "Source":
    from srptq_plugin.calibration.inputs import Source  # noqa: PLC0415

    model, arguments = args.subject or args.model, dict(args.model_args)
    return Source(model, args.weights, arguments, args.input_range, args.output, args.allow_missing)
