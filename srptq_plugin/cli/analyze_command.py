"""The commands about a run folder, or about what a recipe would make of a network."""

import json
from argparse import Namespace
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from srptq_plugin.cli.analysis_report import analysis_report, precision_report
from srptq_plugin.cli.cost_command import cost_report
from srptq_plugin.cli.parser import DEFAULT_RECIPE
from srptq_plugin.cli.result import Answer, strict
from srptq_plugin.errors import SrptqError
from srptq_plugin.utils.progress import Progress

if TYPE_CHECKING:
    from srptq_plugin.analysis.allocate import Measure
    from srptq_plugin.calibration.inputs import Inputs, Source
    from srptq_plugin.runs.run import Run

ANALYSIS, BUDGET = "analysis.json", "budget.json"
OF_A_RUN = ("recipe", "set", "model", "weights", "model_args", "input_range")
"""What a run folder has of its own."""


def analyze(asked: Namespace, progress: Progress) -> Answer:
    """Measure what each part costs, or find bits for a budget."""
    run = _run(asked)
    return _sensitivity(asked, run, progress) if asked.budget is None else _precision(asked, run, progress)


def _sensitivity(asked: Namespace, run: "Run | None", progress: Progress) -> Answer:
    from srptq_plugin.analysis.analyze import analyze as analyzing  # noqa: PLC0415 - loads torch
    from srptq_plugin.analysis.subject import Subject  # noqa: PLC0415
    from srptq_plugin.evaluation.pairs import load_pairs  # noqa: PLC0415

    out = _file(asked, run, ANALYSIS)
    if run is not None:
        subject = Subject.of_run(run, asked.images, asked.scale, asked.patches)
    else:
        subject = Subject.of_model(_inputs(asked, run), asked.patches, progress)
    pairs = load_pairs(asked.data, subject.record.scale).usable if asked.data else ()
    found = analyzing(subject, pairs, asked.by, progress).record()
    _keep(found, out)
    return Answer(found, analysis_report(found, out))


def _file(asked: Namespace, run: "Run | None", name: str) -> Path:
    """Where the answer goes, which has to be possible."""
    from srptq_plugin.utils.atomic_file import check_file  # noqa: PLC0415

    out = asked.out or (run.folder / name if run else Path(name))
    check_file("--out", out)
    return out


def _keep(found: Mapping[str, Any], out: Path) -> None:
    from srptq_plugin.utils.atomic_file import atomic_file  # noqa: PLC0415

    with atomic_file(out) as draft:
        draft.write_text(json.dumps(strict(found), indent=1) + "\n")


def _precision(asked: Namespace, run: "Run | None", progress: Progress) -> Answer:
    from srptq_plugin.analysis.precision import Budget, Precision  # noqa: PLC0415
    from srptq_plugin.analysis.widths import at_every_width, recipe_of  # noqa: PLC0415
    from srptq_plugin.evaluation.pairs import load_pairs  # noqa: PLC0415
    from srptq_plugin.utils.atomic_file import atomic_file, check_file  # noqa: PLC0415

    out = _file(asked, run, BUDGET)
    check_file("--recipe-out", asked.recipe_out)
    inputs = _inputs(asked, run)
    pairs = load_pairs(asked.data, inputs.loaded.record.scale).usable if asked.data else ()
    uniforms = at_every_width(inputs, asked.patches, asked.bits, progress)
    precision = Precision(uniforms, "stage" if asked.by == ["stage"] else "site", pairs)
    found = precision.within(Budget(*asked.budget))
    with atomic_file(asked.recipe_out) as draft:
        draft.write_text(recipe_of(inputs, uniforms[0].subject.table.plan, found.bits).to_yaml())
    measure: Measure = "size" if asked.budget[0] == "size" else "bops"
    curve = {"measure": measure, "mixtures": [each.point() for each in precision.curve(measure)]}
    data = precision.record() | {"budget": dict([asked.budget]), "mixed": found.record(), "curve": curve}
    _keep(data, out)
    return Answer(data, precision_report(data, asked.recipe_out, out))


def _inputs(asked: Namespace, run: "Run | None") -> "Inputs":
    from srptq_plugin.calibration.inputs import Inputs  # noqa: PLC0415
    from srptq_plugin.plugins.bound_recipe import BoundRecipe  # noqa: PLC0415
    from srptq_plugin.plugins.registry import Registry  # noqa: PLC0415

    if run is not None:
        return Inputs.of_run(run, asked.images, asked.scale, asked.device)
    registry = Registry()
    recipe = asked.recipe or DEFAULT_RECIPE
    bound = BoundRecipe.resolve(recipe, registry, overrides=asked.set, images=asked.images, scale=asked.scale)
    return Inputs.load(bound, _source(asked), asked.device)


def cost(asked: Namespace, _progress: Progress) -> Answer:
    """Count arithmetic, bytes and memory, of a run or of what a recipe would make of a network."""
    from srptq_plugin.costs.estimate import Estimate  # noqa: PLC0415
    from srptq_plugin.plugins.registry import Registry  # noqa: PLC0415
    from srptq_plugin.recipes.recipe import Recipe  # noqa: PLC0415

    run = _run(asked)
    if run is not None:
        found = Estimate.of_run(run, asked.input_size)
    else:
        registry = Registry()
        recipe = Recipe.load(asked.recipe or DEFAULT_RECIPE, asked.set)
        loaded = _source(asked).load(registry, asked.input_size)
        found = Estimate.of_recipe(recipe, loaded, registry, asked.input_size)
    return Answer(found.record(), cost_report(found.record()))


def _run(asked: Namespace) -> "Run | None":
    """The run folder, where it is one; a network has a name."""
    from srptq_plugin.runs.run import Run  # noqa: PLC0415

    if asked.subject is None:
        return None
    if not Path(asked.subject).is_dir() and Path(asked.subject).name == asked.subject:
        _refuse(asked, ["model"], "a network")
        return None
    _refuse(asked, OF_A_RUN, "a run, which has its own")
    return Run.open(asked.subject)


def _refuse(asked: Namespace, names: Iterable[str], what: str) -> None:
    given = [f"--{name.replace('_', '-')}" for name in names if getattr(asked, name)]
    if given:
        raise SrptqError(f"{', '.join(given)}: {asked.subject} is {what}; give one or the other")


def _source(asked: Namespace) -> "Source":
    from srptq_plugin.calibration.inputs import Source  # noqa: PLC0415

    return Source(asked.subject or asked.model, asked.weights, dict(asked.model_args), asked.input_range)
