"""The activations whose rounding costs the image most, with their values and bounds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from srptq_plugin.analysis.distribution import Distribution, Step, distributions
from srptq_plugin.analysis.site_noise import estimate_noise
from srptq_plugin.analysis.subject import Subject
from srptq_plugin.calibration.inputs import Inputs
from srptq_plugin.data.metrics import PEAK, decibels
from srptq_plugin.runs.run import Run
from srptq_plugin.utils.progress import Progress, quiet

SHOWN = 4


@dataclass(frozen=True)
class WorstSite:
    """The values and the bounds of a site, and the noise of its rounding alone."""

    distribution: Distribution
    noise: float
    """In squared levels of an 8-bit image."""

    @property
    def psnr(self) -> float:
        """The PSNR against the float network if only this site is rounded."""
        return decibels(self.noise, PEAK)


def worst_sites(
    run: Run, measured: Mapping[str, float] | None = None, device: str = "auto", progress: Progress = quiet
) -> list[WorstSite]:
    """Return the activations with the most noise in the image, with their distributions.

    Args:
        run: The run.
        measured: The noise of encodings from an analysis. By default it is estimated.
        device: Where torch computes.
        progress: A callback for progress.
    """
    progress("estimating noise", 0, 1)
    known = measured or estimate_noise(Subject.of_run(run))
    progress("estimating noise", 1, 1)
    activations = {group for group, sites in run.table.plan.groups.items() if sites[0].role == "activation"}
    ranked = sorted(activations & known.keys(), key=lambda group: -known[group])[:SHOWN]
    if not ranked:
        return []
    shown = distributions(run, ranked, Inputs.of_run(run, device=device), progress)
    return [WorstSite(values, known[group]) for group, values in zip(ranked, shown, strict=True)]


def step_names(run: Run) -> Mapping[Step, str]:
    """Return the legend of the steps from values to integers, for activations."""
    names: dict[Step, str] = {
        "raw": "minimum and maximum",
        "observed": f"observed by {run.recipe.activations.observer}",
    }
    if run.recipe.reconstruction is not None:
        names["tuned"] = f"tuned by {run.recipe.reconstruction.name}"
    return {**names, "projected": f"on {run.recipe.target}'s grid"}


def describe_ends(site: WorstSite, names: Mapping[Step, str]) -> Sequence[tuple[Step, str, str]]:
    """Return each step of a site with its name and its bounds as text."""
    return [
        (step, names.get(step, step), f"{low:.4g} to {high:.4g}".replace("-", "\N{MINUS SIGN}"))
        for step, (low, high) in site.distribution.bounds.items()
    ]
