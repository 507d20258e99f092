"""A recipe, a network and images become the numbers of every site: plan, realize, observe, reconstruct."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from srptq_plugin.calibration.equalization.equalize import equalize_network
from srptq_plugin.data.images import (
    Image,
    load_images,
    mirrored,
    most_detailed,
    noise_patches,
    random_patches,
    sample_images,
    to_tensor,
)
from srptq_plugin.deploy.quant_table import QuantTable
from srptq_plugin.errors import SrptqError
from srptq_plugin.graph.export import export_at_size, export_network, graph_of
from srptq_plugin.graph.network import Network
from srptq_plugin.graph.rules import Rules
from srptq_plugin.graph.types import Size
from srptq_plugin.models import LoadedModel, describe, load_model
from srptq_plugin.models import SRNetwork as ModelNetwork
from srptq_plugin.models.model_record import UNIT, ModelRecord, check_range
from srptq_plugin.planning.grid_cost import GridCost, grid_costs, observed_bounds, tuned_bounds
from srptq_plugin.planning.overflow_cost import OverflowCost, overflow_cost
from srptq_plugin.planning.plan import Plan
from srptq_plugin.planning.planner import make_plan
from srptq_plugin.planning.prepared_graph import PreparedGraph, fixed_size
from srptq_plugin.plugins.registry import Registry
from srptq_plugin.quantization.grid import Bounds
from srptq_plugin.recipes.binding import qconfigs_of, rules_of, tuner_of
from srptq_plugin.recipes.recipe import Recipe, check_names
from srptq_plugin.recipes.recipe_files import RecipeLayer
from srptq_plugin.reconstruction.compensation import compensate
from srptq_plugin.runs.run import Run
from srptq_plugin.utils.devices import device_of
from srptq_plugin.utils.progress import Progress, quiet
from srptq_plugin.utils.timing import Clock

DRAWN = 4
"""Patches drawn for each that is kept, where those of most detail are."""
PROBED = 16
"""Patches on which the cost of a target's grid and the noise of each channel are measured."""


def resolved(
    recipe: str | Path | Recipe,
    overrides: Sequence[str] = (),
    images: Path | None = None,
    scale: int | None = None,
    toolkit: str | None = None,
) -> Recipe:
    """The recipe with what was said beside it; `scale` is the factor to make the images smaller by."""
    loaded = recipe if isinstance(recipe, Recipe) else Recipe.load(recipe, overrides)
    changed: dict[str, Any] = loaded.model_dump()
    if scale is not None:
        changed["calibration"]["scale"] = scale
    if images is not None:
        changed["calibration"]["images"] = str(Path(images).absolute())
    if toolkit is not None:
        changed["toolkit"] = toolkit
    return Recipe.from_layers([RecipeLayer("quantize", changed)])


@dataclass(frozen=True)
class Source:
    """Which network: a module, or the name of a family or of a factory; without any the bundled EDSR."""

    model: str | nn.Module | None = None
    weights: Path | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict[str, Any])
    input_range: tuple[float, float] | None = None

    def load(self, registry: Registry, size: Size | None = None) -> LoadedModel:
        """Read it, with the only size that its input may have if it takes no other."""
        if self.input_range is not None:
            check_range(self.input_range)
        if isinstance(self.model, nn.Module):
            network = ModelNetwork(self.model, self.input_range or UNIT)
            return describe(type(self.model).__name__, network, size)
        entries = registry.entries("model")
        families = {name: entry.load() for entry in entries for name in entry.names}
        return load_model(
            self.model, self.weights, dict(self.arguments), self.input_range, families=families, size=size
        )


@dataclass(frozen=True)
class Inputs:
    """What calibrating needs: a recipe that its target can run, the network, and patches of images.

    `exported` gives the network as it was exported before. `size` is the input of the file to write, and `fixed` says
    that the network is traced and calibrated at that size.
    """

    recipe: Recipe
    rules: Rules
    loaded: LoadedModel
    patches: Tensor
    registry: Registry
    device: torch.device
    exported: Callable[[], ExportedProgram] | None = None
    size: Size | None = None
    fixed: bool = False

    @classmethod
    def load(
        cls, recipe: Recipe, registry: Registry, source: Source, device: str = "auto", size: Size | None = None
    ) -> "Inputs":
        """Read the network and the images; without images the sample photographs."""
        loaded = source.load(registry, size)
        if size is not None:
            _check_multiple(size, loaded.record)
        fixed = size is not None and (loaded.fixed or set(size[2:]) == {recipe.calibration.size})
        patches = _patches(recipe, loaded.record, size[2:] if size and fixed else None)
        rules, where = rules_of(recipe, registry), device_of(device)
        return cls(recipe, rules, loaded, patches, registry, where, size=size, fixed=fixed)

    @classmethod
    def of_run(cls, run: Run, images: Path | None = None, scale: int | None = None, device: str = "auto") -> "Inputs":
        """Those of a run folder; without images the ones that it was calibrated on."""
        recipe = resolved(run.recipe, images=images, scale=scale)
        loaded, rules = LoadedModel(run.network, run.record), rules_of(recipe, run.registry)
        patches = _patches(recipe, run.record, fixed_size(run.network))
        return cls(recipe, rules, loaded, patches, run.registry, device_of(device), run.program)

    @property
    def shuffled(self) -> Tensor:
        """The patches in the order in which they are observed, on the device."""
        generator = torch.Generator().manual_seed(self.recipe.calibration.seed)
        return self.patches[torch.randperm(len(self.patches), generator=generator)].to(self.device)

    def program(self) -> ExportedProgram:
        """The network, exported anew."""
        if self.exported:
            return self.exported()
        if self.size and self.fixed:
            return export_at_size(self.loaded.module, self.size)
        return export_network(self.loaded.module, multiple=self.loaded.record.multiple)

    def at_size(self) -> "Inputs | None":
        """The same at the size of the file to write, for a network that cannot be traced at any."""
        if self.size is None or self.fixed:
            return None
        return replace(self, patches=_patches(self.recipe, self.loaded.record, self.size[2:]), fixed=True)


def check_recipe(recipe: Recipe, registry: Registry) -> None:
    """Refuse what contradicts itself, what is not installed, and what the target cannot run."""
    settings = recipe.calibration
    if settings.choose == "noise" and (settings.images or settings.scale):
        raise SrptqError(
            f"recipe {recipe.name}: calibration.choose: noise takes no images; leave them out, or choose random"
        )
    check_names(recipe, registry)
    rules_of(recipe, registry)
    qconfigs_of(recipe, registry)
    tuner_of(recipe, registry)


def _check_multiple(size: Size, record: ModelRecord) -> None:
    fitted = tuple(map(record.fitted, size[2:]))
    if fitted != size[2:]:
        raise SrptqError(
            f"input_size: {size[2]} x {size[3]}, and {record.name} takes multiples of {record.multiple}; "
            f"give {fitted[0]} x {fitted[1]}"
        )


def _patches(recipe: Recipe, record: ModelRecord, fixed: tuple[int, int] | None = None) -> Tensor:
    """Cut patches of the recipe's size, or of the fixed one, to which smaller images are mirrored."""
    settings = recipe.calibration
    height, width = fixed or (record.fitted(settings.size),) * 2
    if settings.choose == "noise":
        pixels = noise_patches(settings.patches, max(height, width), settings.seed)[:, :height, :width]
        return to_tensor(pixels, record.input_range)
    drawn = settings.patches * (DRAWN if settings.choose == "detail" else 1)
    images = _images(recipe, record.scale)
    if fixed:
        images = [Image(each.name, mirrored(each.pixels, fixed)) for each in images]
    pixels = random_patches(images, drawn, fixed or height, settings.seed)
    if settings.choose == "detail":
        pixels = most_detailed(pixels, settings.patches)
    return to_tensor(pixels, record.input_range)


def _images(recipe: Recipe, scale: int) -> list[Image]:
    settings = recipe.calibration
    if settings.images is None:
        return sample_images(settings.scale or max(scale, 2))
    return load_images(Path(settings.images), scale=settings.scale)


@dataclass
class Calibrator:
    """Calibrates a network; what came of it."""

    inputs: Inputs
    progress: Progress = quiet
    clock: Clock = field(default_factory=Clock)
    equalized: float | None = None
    figures: Mapping[str, float] = field(default_factory=dict[str, float])
    grid_costs: Mapping[str, GridCost] = field(default_factory=dict[str, GridCost])
    overflow: OverflowCost | None = None
    rounding: float | None = None
    observed: Mapping[str, Bounds] = field(default_factory=dict[str, Bounds])
    tuned: Mapping[str, Bounds] = field(default_factory=dict[str, Bounds])

    def run(self) -> tuple[ExportedProgram, QuantTable]:
        """The float network, exported, and the numbers of every site."""
        torch.manual_seed(self.inputs.recipe.calibration.seed)
        self.progress("tracing the network", 0, 0)
        with self.clock("trace"):
            program = self._traced()
        prepared = self._prepared(program)
        self._calibrate(prepared)
        prepared.to(torch.device("cpu"))
        return program, QuantTable.of(prepared)

    def _traced(self) -> ExportedProgram:
        """The network for any size, or for the only one that was asked for where it cannot be traced for any."""
        try:
            return self.inputs.program()
        except SrptqError:
            fixed = self.inputs.at_size()
            if fixed is None:
                raise
            self.inputs = fixed
            return fixed.program()

    def at(self, group: str) -> tuple[GridCost | None, Bounds | None, Bounds | None]:
        """What was found at sites of one encoding: what the grid costs, the bounds observed, and those tuned."""
        return self.grid_costs.get(group), self.observed.get(group), self.tuned.get(group)

    def _prepared(self, program: ExportedProgram) -> PreparedGraph:
        inputs, recipe = self.inputs, self.inputs.recipe
        network = Network(graph_of(program))
        qconfigs = qconfigs_of(recipe, inputs.registry)
        plan = make_plan(network, inputs.rules, recipe, inputs.loaded.record.input_range, qconfigs)
        if recipe.equalize:
            self._equalize(network, plan)
        return inputs.registry.toolkit(recipe.toolkit).load().realize(program, plan).to(inputs.device)

    def _equalize(self, network: Network, plan: Plan) -> None:
        self.progress("equalizing channels", 0, 0)
        with self.clock("equalize"):
            self.equalized = equalize_network(
                network, plan, self.inputs.patches[:PROBED], self.inputs.recipe.calibration.seed
            )

    def _calibrate(self, prepared: PreparedGraph) -> None:
        shuffled = self.inputs.shuffled
        with self.clock("observe"):
            prepared.observe(shuffled.split(self.inputs.recipe.calibration.batch), self.progress)
            self.observed = observed_bounds(prepared)
            self.overflow = overflow_cost(prepared, shuffled[:PROBED])
        with self.clock("reconstruct"):
            self.figures = self._reconstruct(prepared, self.inputs.patches.to(self.inputs.device))
        self.tuned = tuned_bounds(prepared) if self.inputs.recipe.reconstruction else {}
        self.grid_costs = grid_costs(prepared, self.observed, shuffled[:PROBED])
        if self.inputs.recipe.weights.rounding == "compensated":
            with self.clock("round"):
                self.rounding = compensate(prepared, shuffled[:PROBED], self.progress)

    def _reconstruct(self, prepared: PreparedGraph, patches: Tensor) -> Mapping[str, float]:
        tune = tuner_of(self.inputs.recipe, self.inputs.registry)
        return {} if tune is None else tune(prepared, patches, progress=self.progress)
