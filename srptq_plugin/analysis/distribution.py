"""The values of a site in the float network, and its bounds at each step from values to integers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from srptq_plugin.calibration.inputs import Inputs
from srptq_plugin.errors import UnknownNameError
from srptq_plugin.observers.base import TensorRows
from srptq_plugin.observers.histogram import RunningHistogram
from srptq_plugin.planning.grid_cost import observed_bounds
from srptq_plugin.planning.plan import Plan, Role
from srptq_plugin.planning.prepared_graph import PreparedGraph
from srptq_plugin.quantization.grid import Bounds
from srptq_plugin.runs.run import Run
from srptq_plugin.utils.progress import Progress, quiet

BINS = 256
Step = Literal["raw", "observed", "tuned", "projected"]
Ends = tuple[float, float]


@dataclass(frozen=True)
class Distribution:
    """A histogram of a site's values, and the site's lower and upper bounds at each step.

    The steps are `raw`, the minimum and the maximum, `observed`, the bounds of the recipe's observer before any grid,
    `tuned`, the bounds that a reconstruction learned, and `projected`, the bounds on the target's grid. For bounds by
    channel, the outermost are shown.
    """

    site: str
    role: Role
    bits: int
    channels: int
    sharing: Sequence[str]
    edges: Sequence[float]
    counts: Sequence[int]
    bounds: Mapping[Step, Ends]

    def record(self) -> dict[str, Any]:
        """Return this record for JSON."""
        return {**vars(self), "bounds": {step: list(ends) for step, ends in self.bounds.items()}}


def distribution(
    run: Run,
    name: str,
    *,
    images: Path | None = None,
    scale: int | None = None,
    device: str = "auto",
    progress: Progress = quiet,
) -> Distribution:
    """Measure the distribution of a site, by default on the images that the run was calibrated on.

    Args:
        name: The name of a site, or of a group of sites that share an encoding. Their values are counted together.
    """
    return distributions(run, [name], Inputs.of_run(run, images, scale, device), progress)[0]


def distributions(run: Run, names: Sequence[str], inputs: Inputs, progress: Progress = quiet) -> list[Distribution]:
    """Measure the distributions of several sites or groups of activations, or of one weight, on the same images."""
    groups = [find_group(run.table.plan, name) for name in names]
    watch = _Watch.at(run, groups, inputs, progress)
    observed = observed_bounds(watch.prepared)
    return [_distribution(run, *pair, watch, observed) for pair in zip(names, groups, strict=True)]


def _distribution(run: Run, name: str, group: str, watch: "_Watch", observed: Mapping[str, Bounds]) -> Distribution:
    sites = run.table.plan.groups[group]
    edges, counts = watch.bars(group)
    return Distribution(
        site=name,
        role=sites[0].role,
        bits=sites[0].grid.bits,
        channels=run.table.qparams[sites[0].name].scale.numel(),
        sharing=[site.name for site in sites if site.name != name],
        edges=edges,
        counts=counts,
        bounds=_bounds(run, group, watch.ends(group), observed.get(group)),
    )


def find_group(plan: Plan, name: str) -> str:
    """Return the group that has this name, or that the site of this name belongs to."""
    groups = {group: group for group in plan.groups} | {site.name: site.group for site in plan.sites}
    if name not in groups:
        raise UnknownNameError("site", name, groups)
    return groups[name]


def _bounds(run: Run, group: str, raw: Ends, observed: Bounds | None) -> dict[Step, Ends]:
    site = run.table.plan.groups[group][0].name
    bounds: dict[Step, Ends] = {"raw": raw}
    if observed is not None:
        bounds["observed"] = observed.outermost
    record = next((record for record in run.summary.get("sites", ()) if record["name"] == site), {})
    if record.get("tuned"):
        bounds["tuned"] = tuple(record["tuned"])
    if group not in run.table.states:
        bounds["projected"] = run.table.qparams[site].bounds.outermost
    return bounds


class _Watch:
    """The float network with an observer and a histogram at some groups of sites."""

    def __init__(self, prepared: PreparedGraph) -> None:
        self.prepared = prepared
        self._histograms: dict[str, RunningHistogram] = {}

    @classmethod
    def at(cls, run: Run, groups: Sequence[str], inputs: Inputs, progress: Progress) -> "_Watch":
        """Run the images through the network, in the order of calibration."""
        sites = tuple(site for site in run.table.plan.sites if site.group in groups)
        plan = replace(run.table.plan, sites=sites, blocks=(), qconfigs=inputs.bound.qconfigs)
        watch = cls(PreparedGraph.from_plan(run.network, plan).to(inputs.device))
        for group in groups:
            watch.prepared.quantizers[group].register_forward_hook(partial(watch.count, group))
        batches = inputs.shuffled.split(inputs.recipe.calibration.batch)
        # a weight is the same for every batch
        weights = all(site.role == "weight" for site in sites)
        watch.prepared.observe(batches[:1] if weights else batches, progress)
        return watch

    def count(self, group: str, _module: nn.Module, inputs: tuple[Tensor, ...], _output: Tensor) -> None:
        """Count the values of one tensor."""
        batch = RunningHistogram.of([TensorRows.of(inputs[0], None)], BINS)
        before = self._histograms.get(group)
        self._histograms[group] = batch if before is None else before.join(batch)

    def ends(self, group: str) -> Ends:
        """Return the minimum and the maximum of all values of a group."""
        seen = self._histograms[group]
        return float(seen.low), float(seen.high)

    def bars(self, group: str) -> tuple[list[float], list[int]]:
        """Return edges and counts from the first bin with a value to the last.

        The histogram counts zeros apart, and here they join the bin that zero falls into.
        """
        seen = self._histograms[group]
        counts, edges = seen.counts[0].clone(), seen.edges[0]
        zero_bin = int((-seen.start[0]).clamp(0, BINS - 1))
        counts[zero_bin] += seen.zeros[0]
        used = torch.nonzero(counts)[:, 0]
        first, last = int(used[0]), int(used[-1])
        return edges[first : last + 2].tolist(), [int(count) for count in counts[first : last + 1]]
