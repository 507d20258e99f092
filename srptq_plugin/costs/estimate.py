"""Costs of a run, or of a network under a recipe, next to the float network."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from srptq_plugin.costs.channel_bits import measure_channel_bits
from srptq_plugin.costs.conventions import daq_operations, fqsr_memory, fqsr_operations
from srptq_plugin.costs.cost import Costs
from srptq_plugin.costs.gates import GateCosts
from srptq_plugin.costs.memory import Moment
from srptq_plugin.graph.export import export_network, graph_of
from srptq_plugin.graph.network import Network
from srptq_plugin.graph.stages import STAGES, Stage
from srptq_plugin.graph.types import Size
from srptq_plugin.models.model_record import LoadedModel, ModelRecord
from srptq_plugin.planning.plan import Plan
from srptq_plugin.plugins.bound_recipe import BoundRecipe
from srptq_plugin.plugins.registry import Registry
from srptq_plugin.recipes.recipe import Recipe
from srptq_plugin.runs.run import Run

OUTPUT = (720, 1280)
"""Height and width of the output image that papers count for. It is the default."""


@dataclass(frozen=True)
class Total:
    """The costs of all layers together."""

    bops: int
    size: int
    memory: Moment
    fqsr_operations: float
    fqsr_memory: int | None
    daq_operations: float

    @classmethod
    def of(
        cls, costs: Costs, plan: Plan | None = None, channels: Mapping[str, Sequence[float]] | None = None
    ) -> "Total":
        """Sum the costs under a plan, or in float without one, with the measured bits of input channels by layer."""
        conventions = fqsr_operations(costs, plan), fqsr_memory(costs, plan), daq_operations(costs, plan, channels)
        return cls(costs.bops(plan), costs.size(plan), costs.memory.peak(plan), *conventions)


@dataclass(frozen=True)
class StageCost:
    """The costs of the layers of one stage together."""

    stage: Stage
    macs: int
    bops: int
    float_bops: int


@dataclass(frozen=True)
class Estimate:
    """The costs of a network under the plan of a recipe."""

    model: ModelRecord
    recipe: Recipe
    costs: Costs
    plan: Plan
    gates: GateCosts = field(default_factory=GateCosts)
    channels: Mapping[str, Sequence[float]] = field(default_factory=dict[str, list[float]])
    """The measured bits of input channels, by layer."""

    @classmethod
    def of_run(cls, run: Run, size: Size | None = None, images: Iterable[Tensor] = ()) -> "Estimate":
        """Estimate the costs of a run.

        Args:
            run: an open run folder.
            size: the input size. By default the run's own, or else `usual_size`.
            images: images in the network's range, on which the bits of channels with mixed precision are measured.
        """
        size = size or run.input_size or usual_size(run.record)
        costs = Costs.of(Network(run.network), size, run.rules)
        images = list(images)
        channels = measure_channel_bits(run, images) if images else {}
        return cls(run.record, run.recipe, costs, run.table.plan, GateCosts.of(costs, run.table), channels)

    @classmethod
    def of_recipe(
        cls, recipe: str | Path | Recipe, loaded: LoadedModel, registry: Registry, size: Size | None = None
    ) -> "Estimate":
        """Estimate the costs of a network before it is quantized. The plan suffices, so no image is read."""
        bound, record = BoundRecipe.resolve(recipe, registry), loaded.record
        network = Network(graph_of(export_network(loaded.module, size, record.multiple, record.channels)))
        plan = bound.plan(network, record.input_range)
        return cls(record, bound.recipe, Costs.of(network, size or usual_size(record), bound.rules), plan)

    @cached_property
    def quantized(self) -> Total:
        """The costs under the plan, with the gates of a run."""
        total = Total.of(self.costs, self.plan, self.channels)
        return replace(total, bops=total.bops + self.gates.bops, size=total.size + self.gates.bytes)

    @cached_property
    def plain(self) -> Total:
        """The costs in float."""
        return Total.of(self.costs)

    @property
    def stages(self) -> tuple[StageCost, ...]:
        """The costs of each stage that has layers."""
        return tuple(self._stages())

    def _stages(self) -> Iterator[StageCost]:
        for stage in STAGES:
            quantized = [cost for cost in self.costs.layer_costs(self.plan) if cost.layer.stage == stage]
            plain = [cost for cost in self.costs.layer_costs() if cost.layer.stage == stage]
            if quantized:
                macs = sum(cost.layer.macs for cost in quantized)
                yield StageCost(stage, macs, sum(cost.bops for cost in quantized), sum(cost.bops for cost in plain))

    def record(self) -> dict[str, Any]:
        """Return all costs as an object for JSON."""
        sites = self.costs.site_costs(self.plan)
        return {
            "model": asdict(self.model),
            "recipe": self.recipe.name,
            "target": self.recipe.target,
            "input_size": list(self.costs.input_size),
            "macs": self.costs.macs,
            "quantized": asdict(self.quantized),
            "float": asdict(self.plain),
            "channel_bits": dict(self.channels),
            "gates": asdict(self.gates) | {"bops": self.gates.bops},
            "stages": [asdict(stage) for stage in self.stages],
            "layers": [layer.record() for layer in self.costs.layer_costs(self.plan)],
            "parameters": [parameter.record() for parameter in self.costs.parameter_costs(self.plan)],
            "sites": [{"name": name, **asdict(site)} for name, site in sites.items()],
            "timeline": [asdict(moment) for moment in self.costs.memory.timeline(self.plan)],
        }


def usual_size(record: ModelRecord) -> Size:
    """Return the input size for an output of 1280 x 720, or the next larger size that the network takes.

    >>> usual_size(ModelRecord("x3", 3, (0, 1), None, 0)), usual_size(ModelRecord("x3", 3, (0, 1), None, 0, multiple=8))
    ((1, 3, 240, 427), (1, 3, 240, 432))
    """
    height, width = (record.fitted(-(-side // record.scale)) for side in OUTPUT)
    return 1, record.channels, height, width
