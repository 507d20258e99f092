"""quantize(): plan, realise, observe, reconstruct, write, verify; everything in one run folder."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from srptq_plugin.contracts import Progress, Rules, Size, quiet
from srptq_plugin.equalise import equalise
from srptq_plugin.errors import SrptqError
from srptq_plugin.export import export_network, graph_of
from srptq_plugin.graph import PreparedGraph
from srptq_plugin.images import (
    Image,
    load_images,
    most_detailed,
    noise_patches,
    random_patches,
    sample_images,
    to_tensor,
)
from srptq_plugin.models import LoadedModel, describe, load_model
from srptq_plugin.models import Network as ModelNetwork
from srptq_plugin.models.record import UNIT, check_range
from srptq_plugin.network import Network
from srptq_plugin.onnx_io import export_float
from srptq_plugin.plan import make_plan
from srptq_plugin.projection import Projection, observed_bounds, projections
from srptq_plugin.recipe import Recipe, check_names
from srptq_plugin.recipe_files import Layer
from srptq_plugin.registry import Registry
from srptq_plugin.run import NETWORK, PROGRAM, Run
from srptq_plugin.run_folder import RunFolder
from srptq_plugin.settings import makers_of, rules_of
from srptq_plugin.sites import Plan
from srptq_plugin.table import QuantTable
from srptq_plugin.writing import Clock, RunWriter

DEFAULT_RECIPE = "openvino-w8a8"
DRAWN = 4
"""Patches drawn for each that is kept, where those of most detail are."""
PROBED = 16
"""Patches on which the cost of a target's grid and the noise of each channel are measured."""


def quantize(
    recipe: str | Path | Recipe = DEFAULT_RECIPE,
    *,
    model: str | nn.Module | None = None,
    weights: Path | None = None,
    model_args: Mapping[str, Any] | None = None,
    images: Path | None = None,
    scale: int | None = None,
    out: Path | str = "run",
    overrides: Sequence[str] = (),
    input_size: Size | None = None,
    input_range: tuple[float, float] | None = None,
    toolkit: str | None = None,
    device: str = "auto",
    registry: Registry | None = None,
    progress: Progress = quiet,
) -> Run:
    """Quantize a network by a recipe and write a run folder.

    Without a model the bundled EDSR; without images the photographs of scikit-image. `scale` says that the
    images are high-resolution photographs, to be made smaller by it.
    """
    _check_size(input_size)
    if input_range is not None:
        check_range(input_range)
    registry = registry or Registry()
    chosen = _recipe(recipe, overrides, images, scale, toolkit)
    _check_noise(chosen)
    check_names(chosen, registry)
    rules = rules_of(chosen, registry)
    makers_of(chosen, registry)
    registry.target(chosen.target).load().require()
    place = RunFolder(Path(out))
    clock = Clock()
    progress("loading network and images", 0, 0)
    with clock("load"):
        families = {entry.name: entry.load() for entry in registry.entries("model")}
        loaded = _model(model, weights, model_args, input_range, families)
        patches = _patches(chosen, loaded)
    job = _Job(chosen, rules, loaded, patches, registry, input_size, device_of(device), progress, clock)
    with place.draft() as draft:
        job.into(draft)
    return Run.open(place.folder, registry)


def _check_size(size: Size | None) -> None:
    if size is not None and (len(size) != 4 or size[:2] != (1, 3) or min(size) < 1):  # noqa: PLR2004 - axes
        raise SrptqError(f"input_size: {size}; give one image of three colours, such as (1, 3, 270, 480)")


def _check_noise(recipe: Recipe) -> None:
    settings = recipe.calibration
    if settings.choose == "noise" and (settings.images or settings.scale):
        raise SrptqError(
            f"recipe {recipe.name}: calibration.choose: noise takes no images; leave them out, or choose random"
        )


def _recipe(
    recipe: str | Path | Recipe, overrides: Sequence[str], images: Path | None, scale: int | None, toolkit: str | None
) -> Recipe:
    loaded = recipe if isinstance(recipe, Recipe) else Recipe.load(recipe, overrides)
    changed: dict[str, Any] = loaded.model_dump()
    if scale is not None:
        changed["calibration"]["scale"] = scale
    if images is not None:
        changed["calibration"]["images"] = str(Path(images).absolute())
    if toolkit is not None:
        changed["toolkit"] = toolkit
    return Recipe.from_layers([Layer("quantize", changed)])


def _model(
    model: str | nn.Module | None,
    weights: Path | None,
    arguments: Mapping[str, Any] | None,
    input_range: tuple[float, float] | None,
    families: Mapping[str, Any],
) -> LoadedModel:
    if isinstance(model, nn.Module):
        return describe(type(model).__name__, ModelNetwork(model, input_range or UNIT))
    return load_model(model, weights, dict(arguments or {}), input_range, families=families)


def _patches(recipe: Recipe, loaded: LoadedModel) -> Tensor:
    settings = recipe.calibration
    if settings.choose == "noise":
        return to_tensor(noise_patches(settings.patches, settings.size, settings.seed), loaded.record.input_range)
    drawn = settings.patches * (DRAWN if settings.choose == "detail" else 1)
    pixels = random_patches(_images(recipe, loaded.record.scale), drawn, settings.size, settings.seed)
    if settings.choose == "detail":
        pixels = most_detailed(pixels, settings.patches)
    return to_tensor(pixels, loaded.record.input_range)


def _images(recipe: Recipe, scale: int) -> list[Image]:
    settings = recipe.calibration
    if settings.images is None:
        return sample_images(settings.scale or max(scale, 2))
    return load_images(Path(settings.images), scale=settings.scale)


def device_of(name: str) -> torch.device:
    """The device of a name; `auto` is a GPU where there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise SrptqError(
            f"--device {name}: not there ({str(error).splitlines()[0]}); give cpu, cuda or auto"
        ) from error
    return device


@dataclass
class _Job:
    recipe: Recipe
    rules: Rules
    loaded: LoadedModel
    patches: Tensor
    registry: Registry
    input_size: Size | None
    device: torch.device
    progress: Progress
    clock: Clock
    equalised: float | None = None
    figures: Mapping[str, float] = field(default_factory=dict[str, float])
    projections: Mapping[str, Projection] = field(default_factory=dict[str, Projection])

    def into(self, draft: Path) -> None:
        """Do everything, in a folder that is moved into place later."""
        torch.manual_seed(self.recipe.calibration.seed)
        self.progress("tracing the network", 0, 0)
        with self.clock("trace"):
            program = export_network(self.loaded.module)
        prepared = self._calibrated(program)
        prepared.to(torch.device("cpu"))
        table = QuantTable.of(prepared)
        self.progress("writing files", 0, 0)
        with self.clock("export"):
            artefacts = self._write(program, table, draft)
        equalised = None if self.equalised is None else round(self.equalised, 2)
        figures = {"equalised_db": equalised, "reconstruction": dict(self.figures)}
        self._writer().finish(draft, table, artefacts, figures, self.projections)

    def _calibrated(self, program: ExportedProgram) -> PreparedGraph:
        network = Network(graph_of(program))
        makers = makers_of(self.recipe, self.registry)
        plan = make_plan(network, self.rules, self.recipe, self.loaded.record.input_range, makers)
        if self.recipe.equalise:
            self._equalise(network, plan)
        toolkit = self.registry.toolkit(self.recipe.toolkit).load()
        prepared = toolkit.realise(program, plan).to(self.device)
        patches = self.patches.to(self.device)
        settings = self.recipe.calibration
        order = torch.randperm(len(patches), generator=torch.Generator().manual_seed(settings.seed))
        with self.clock("observe"):
            prepared.observe([patches[chosen] for chosen in order.split(settings.batch)], self.progress)
            observed = observed_bounds(prepared)
        with self.clock("reconstruct"):
            if self.recipe.reconstruction is not None:
                self.figures = self._reconstruct(prepared, patches)
        self.projections = projections(prepared, observed, patches[order[:PROBED]])
        return prepared

    def _equalise(self, network: Network, plan: Plan) -> None:
        self.progress("equalising channels", 0, 0)
        with self.clock("equalise"):
            self.equalised = equalise(network, plan, self.patches[:PROBED], self.recipe.calibration.seed)

    def _reconstruct(self, prepared: PreparedGraph, patches: Tensor) -> Mapping[str, float]:
        settings = self.recipe.reconstruction
        tune = self.registry.reconstruction(settings.name).load()  # pyright: ignore[reportOptionalMemberAccess]
        options = settings.options()  # pyright: ignore[reportOptionalMemberAccess]
        return tune(prepared, patches, progress=self.progress, **{"seed": self.recipe.calibration.seed, **options})

    def _write(self, program: ExportedProgram, table: QuantTable, draft: Path) -> list[str]:
        record = self.loaded.record
        torch.export.save(program, draft / PROGRAM)
        deployed = self._at_size(program, self.input_size) if self.input_size else program
        metadata = {
            "scale": record.scale,
            "input_range": record.input_range,
            "mean": record.mean,
            "name": record.name,
        }
        export_float(deployed, draft / NETWORK, metadata)
        return self._writer().write(draft, table)

    def _at_size(self, program: ExportedProgram, size: Size) -> ExportedProgram:
        """The network for one size, with the parameters that the program has by now."""
        deployed = export_network(self.loaded.module, size)
        for name, value in deployed.state_dict.items():
            value.data.copy_(program.state_dict[name])
        return deployed

    def _writer(self) -> RunWriter:
        return RunWriter(self.recipe, self.loaded.record, self.registry, self.input_size, self.clock, self.progress)
