"""Everything that a report says about one run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from srptq_plugin.analysis.distribution import Step
from srptq_plugin.costs.estimate import Estimate
from srptq_plugin.data.images import Image
from srptq_plugin.errors import MissingRuntimeError
from srptq_plugin.evaluation.evaluate import Watch, evaluate, evaluate_against_float
from srptq_plugin.evaluation.scores import Evaluation
from srptq_plugin.report.plan_diagram import PlanDiagram
from srptq_plugin.report.sensitivity import Sensitivity
from srptq_plugin.report.worst_sites import WorstSite, step_names, worst_sites
from srptq_plugin.runs.divergence import Divergence, find_divergence, why_not
from srptq_plugin.runs.run import Run
from srptq_plugin.runs.verify import crops
from srptq_plugin.utils.progress import Progress, quiet

INSPECTED = 2
"""How many crops are compared inside the network."""


@dataclass(frozen=True)
class RunReport:
    """A run with its scores and measurements.

    Attributes:
        name: How the report calls it.
        run: The run.
        evaluation: The scores by image.
        diagram: Its plan.
        sensitivity: The costs of its parts, or None if it was not analyzed.
        worst: The activations that cost most.
        steps: The names of the steps of their bounds.
        cost: The record of its costs.
        inside: The differences of simulation and runtime by site, or None.
        why_not: Why there are none.
    """

    name: str
    run: Run
    evaluation: Evaluation
    diagram: PlanDiagram
    sensitivity: Sensitivity | None
    worst: Sequence[WorstSite]
    steps: Mapping[Step, str]
    cost: Mapping[str, Any]
    inside: Divergence | None
    why_not: str

    @property
    def means(self) -> Mapping[str, Mapping[str, Any]]:
        """The mean scores by output."""
        return {row["output"]: row for row in self.evaluation.means}

    @property
    def width(self) -> str:
        """The bits of weights and activations in short, such as int8 or w4a8."""
        weights, activations = self.run.recipe.weights.bits, self.run.recipe.activations.bits
        return f"int{weights}" if weights == activations else f"w{weights}a{activations}"

    def record(self) -> dict[str, Any]:
        """Return the figures for JSON."""
        return {
            "run": str(self.run.folder),
            "scores": self.evaluation.record(),
            "worst_sites": [{**site.distribution.record(), "noise": site.noise} for site in self.worst],
            "divergence": self.inside.record() if self.inside else None,
            "no_divergence": self.why_not,
        }


@dataclass(frozen=True)
class Material:
    """The images of a report: a folder with originals, or low-resolution images."""

    data: Path | None
    images: Sequence[Image] = ()

    def score(self, run: Run, watch: Watch, device: str, progress: Progress) -> Evaluation:
        """Score the outputs of a run, against the originals or else against the float network."""
        if self.data is not None:
            return evaluate(run, self.data, progress=progress, device=device, watch=watch)
        return evaluate_against_float(run, self.images, progress, device=device, watch=watch)


def report_run(
    name: str, run: Run, material: Material, watch: Watch, *, device: str = "auto", progress: Progress = quiet
) -> RunReport:
    """Measure a run. `watch` sees the outputs for each image."""
    sensitivity = Sensitivity.of_run(run)
    evaluation = material.score(run, watch, device, progress)
    inside, reason = _inside(run, progress)
    measured = sensitivity.noise if sensitivity else None
    return RunReport(
        name,
        run,
        evaluation,
        PlanDiagram.of(run),
        sensitivity,
        worst_sites(run, measured, device, progress),
        step_names(run),
        Estimate.of_run(run).record(),
        inside,
        reason,
    )


def _inside(run: Run, progress: Progress) -> tuple[Divergence | None, str]:
    """Return the differences inside the runtime, or why there are none."""
    if reason := why_not(run):
        return None, reason
    images = [crop.image for crop in crops(run, run.images())[:INSPECTED]]
    try:
        return find_divergence(run, images, progress), ""
    except MissingRuntimeError as error:
        return None, str(error)
