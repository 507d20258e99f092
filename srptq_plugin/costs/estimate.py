"""What a run costs, or what a recipe would make a network cost, beside the float network."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from srptq_plugin.costs.conventions import daq_operations, fqsr_memory, fqsr_operations
from srptq_plugin.costs.cost import Costs
from srptq_plugin.costs.memory import Moment
from srptq_plugin.graph.export import export_network, graph_of
from srptq_plugin.graph.network import Network
from srptq_plugin.graph.stages import STAGES, Stage
from srptq_plugin.graph.types import Size
from srptq_plugin.models import LoadedModel
from srptq_plugin.models.model_record import ModelRecord
from srptq_plugin.planning.plan import Plan
from srptq_plugin.plugins.bound_recipe import BoundRecipe
from srptq_plugin.plugins.registry import Registry
from srptq_plugin.recipes.recipe import Recipe
from srptq_plugin.runs.run import Run

OUTPUT = (720, 1280)
"""The image that papers count for, where no size is asked for."""


@dataclass(frozen=True)
class Total:
    """All layers together."""

    bops: int
    size: int
    memory: Moment
    fqsr_operations: float
    fqsr_memory: int | None
    daq_operations: float

    @classmethod
    def of(cls, costs: Costs, plan: Plan | None = None) -> "Total":
        """By a plan, or in float."""
        conventions = fqsr_operations(costs, plan), fqsr_memory(costs, plan), daq_operations(costs, plan)
        return cls(costs.bops(plan), costs.size(plan), costs.memory.peak(plan), *conventions)


@dataclass(frozen=True)
class StageCost:
    """The layers of a stage together."""

    stage: Stage
    macs: int
    bops: int
    float_bops: int


@dataclass(frozen=True)
class Estimate:
    """A network at an image size, and a plan."""

    model: ModelRecord
    recipe: Recipe
    costs: Costs
    plan: Plan

    @classmethod
    def of_run(cls, run: Run, size: Size | None = None) -> "Estimate":
        """Of a run folder; without a size at its own, or at that of an output of 1280 x 720."""
        size = size or run.input_size or usual_size(run.record)
        costs = Costs.of(Network(run.network), size, run.bound.rules)
        return cls(run.record, run.recipe, costs, run.table.plan)

    @classmethod
    def of_recipe(
        cls, recipe: str | Path | Recipe, loaded: LoadedModel, registry: Registry, size: Size | None = None
    ) -> "Estimate":
        """Of a network that is not quantized yet: the plan is enough, no image is read."""
        bound, record = BoundRecipe.resolve(recipe, registry), loaded.record
        network = Network(graph_of(export_network(loaded.module, size, record.multiple)))
        plan = bound.plan(network, record.input_range)
        return cls(record, bound.recipe, Costs.of(network, size or usual_size(record), bound.rules), plan)

    @cached_property
    def quantized(self) -> Total:
        """By the plan."""
        return Total.of(self.costs, self.plan)

    @cached_property
    def plain(self) -> Total:
        """In float."""
        return Total.of(self.costs)

    @property
    def stages(self) -> tuple[StageCost, ...]:
        """Those that have layers."""
        return tuple(self._stages())

    def _stages(self) -> Iterator[StageCost]:
        layers = list(zip(self.costs.of_layers(self.plan), self.costs.of_layers(), strict=True))
        for stage in STAGES:
            inside = [pair for pair in layers if pair[0].layer.stage == stage]
            if inside:
                macs = sum(found.layer.macs for found, _ in inside)
                yield StageCost(stage, macs, *(sum(pair[n].bops for pair in inside) for n in (0, 1)))

    def record(self) -> dict[str, Any]:
        """All of it as one object for JSON."""
        sites = self.costs.of_sites(self.plan)
        return {
            "model": asdict(self.model),
            "recipe": self.recipe.name,
            "target": self.recipe.target,
            "input_size": list(self.costs.input_size),
            "macs": self.costs.macs,
            "quantized": asdict(self.quantized),
            "float": asdict(self.plain),
            "stages": [asdict(found) for found in self.stages],
            "layers": [found.record() for found in self.costs.of_layers(self.plan)],
            "parameters": [found.record() for found in self.costs.of_parameters(self.plan)],
            "sites": [{"name": name, **asdict(found)} for name, found in sites.items()],
            "timeline": [asdict(moment) for moment in self.costs.memory.timeline(self.plan)],
        }


def usual_size(record: ModelRecord) -> Size:
    """Return the input of an output of 1280 x 720, as papers count, or the next larger that the network takes.

    >>> usual_size(ModelRecord("x3", 3, (0, 1), None, 0)), usual_size(ModelRecord("x3", 3, (0, 1), None, 0, multiple=8))
    ((1, 3, 240, 427), (1, 3, 240, 432))
    """
    height, width = (record.fitted(-(-side // record.scale)) for side in OUTPUT)
    return 1, 3, height, width
