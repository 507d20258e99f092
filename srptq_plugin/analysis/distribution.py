"""What values a site of a run has in the float network, and its bounds on the way to integers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
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
from srptq_plugin.runs.run import Run
from srptq_plugin.utils.progress import Progress, quiet

BINS = 256
Step = Literal["raw", "observed", "tuned", "projected"]
Ends = tuple[float, float]


@dataclass(frozen=True)
class Distribution:
    """How often values occur between edges, and lower and upper bounds at each step.

    `raw`: the minimum and the maximum. `observed`: what the recipe's observer finds, before any grid. `tuned`: where a
    reconstruction moved them. `projected`: what the target's grid represents. Where channels have bounds of their own,
    these are the outermost.
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
        """As JSON has it."""
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
    """A site's, or that of all sites of its encoding, on the images that the run was calibrated on, or on others."""
    sites = run.table.plan.groups[group_of(run.table.plan, name)]
    found = _Looking.at(run, sites[0].group, Inputs.of_run(run, images, scale, device), progress)
    edges, counts = found.bars()
    qparams = run.table.qparams[sites[0].name]
    return Distribution(
        site=name,
        role=sites[0].role,
        bits=sites[0].grid.bits,
        channels=qparams.scale.numel(),
        sharing=[site.name for site in sites if site.name != name],
        edges=edges,
        counts=counts,
        bounds=_bounds(run, sites[0].group, found),
    )


def group_of(plan: Plan, name: str) -> str:
    """The group of a site, or of this name."""
    groups = {group: group for group in plan.groups} | {site.name: site.group for site in plan.sites}
    if name not in groups:
        raise UnknownNameError("site", name, groups)
    return groups[name]


def _bounds(run: Run, group: str, found: "_Looking") -> dict[Step, Ends]:
    site = run.table.plan.groups[group][0].name
    bounds: dict[Step, Ends] = {"raw": found.ends}
    observed = observed_bounds(found.prepared)
    if group in observed:
        bounds["observed"] = observed[group].outermost
    record = next((each for each in run.summary.get("sites", ()) if each["name"] == site), {})
    if record.get("tuned"):
        bounds["tuned"] = tuple(record["tuned"])
    if group not in run.table.states:
        bounds["projected"] = run.table.qparams[site].bounds.outermost
    return bounds


class _Looking:
    """The float network with an observer at one group of sites, and a histogram of what comes by there."""

    def __init__(self, prepared: PreparedGraph) -> None:
        self.prepared = prepared
        self.histogram: RunningHistogram | None = None

    @classmethod
    def at(cls, run: Run, group: str, inputs: Inputs, progress: Progress) -> "_Looking":
        """Let the images through, in the order in which they were calibrated on."""
        qconfigs, sites = inputs.bound.qconfigs, run.table.plan.groups[group]
        plan = replace(run.table.plan, sites=sites, blocks=(), qconfigs=qconfigs)
        found = cls(PreparedGraph.from_plan(run.network, plan).to(inputs.device))
        found.prepared.quantizers[group].register_forward_hook(found.look)
        batches = inputs.shuffled.split(inputs.recipe.calibration.batch)
        found.prepared.observe(batches[:1] if sites[0].role == "weight" else batches, progress)
        return found

    def look(self, _module: nn.Module, inputs: tuple[Tensor, ...], _output: Tensor) -> None:
        """Count the values of one tensor."""
        batch = RunningHistogram.of([TensorRows.of(inputs[0], None)], BINS)
        self.histogram = batch if self.histogram is None else self.histogram.join(batch)

    @property
    def seen(self) -> RunningHistogram:
        """What all tensors had."""
        assert self.histogram is not None  # noqa: S101 - a site is on every image's way
        return self.histogram

    @property
    def ends(self) -> Ends:
        """The minimum and the maximum."""
        return float(self.seen.low), float(self.seen.high)

    def bars(self) -> tuple[list[float], list[int]]:
        """The edges and the counts, from the first value to the last; zeros are where zero is."""
        counts, edges = self.seen.counts[0].clone(), self.seen.edges[0]
        home = int((-self.seen.start[0]).clamp(0, BINS - 1))
        counts[home] += self.seen.zeros[0]
        used = torch.nonzero(counts)[:, 0]
        first, last = int(used[0]), int(used[-1])
        return edges[first : last + 2].tolist(), [int(count) for count in counts[first : last + 1]]
