"""What a calibration starts from: a bound recipe, the network, and patches of the calibration images."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

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
from srptq_plugin.errors import SrptqError
from srptq_plugin.graph.export import export_at_size, export_network
from srptq_plugin.graph.types import Size
from srptq_plugin.models.loading import describe, load_model
from srptq_plugin.models.model_record import UNIT, LoadedModel, ModelRecord, SRNetwork, check_range
from srptq_plugin.planning.prepared_graph import fixed_size
from srptq_plugin.plugins.bound_recipe import BoundRecipe
from srptq_plugin.plugins.registry import Registry
from srptq_plugin.recipes.recipe import Recipe
from srptq_plugin.runs.run import Run
from srptq_plugin.utils.devices import device_of

CANDIDATES = 4
"""Patches drawn for each one that `choose: detail` keeps."""


@dataclass(frozen=True)
class Source:
    """Where the network comes from: a module, a family, a checkpoint or a factory. By default the bundled EDSR."""

    model: str | Path | nn.Module | None = None
    weights: Path | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict[str, Any])
    input_range: tuple[float, float] | None = None
    output: str | int | None = None
    allow_missing: bool = False

    def load(self, registry: Registry, size: Size | None = None) -> LoadedModel:
        """Build the network and load its weights.

        Args:
            registry: where families of networks are looked up.
            size: the only input size, for networks that take no other.
        """
        if self.input_range is not None:
            check_range(self.input_range)
        if isinstance(self.model, nn.Module):
            network = SRNetwork(self.model, self.input_range or UNIT)
            return describe(type(self.model).__name__, network, size, self.output)
        chosen = self.model, self.weights, self.arguments, self.input_range
        return load_model(*chosen, registry=registry, size=size, output=self.output, allow_missing=self.allow_missing)


@dataclass(frozen=True)
class Inputs:
    """A bound recipe, the network that it quantizes, and calibration patches [N, channels, H, W] in its range."""

    bound: BoundRecipe
    loaded: LoadedModel
    patches: Tensor
    device: torch.device
    exported: Callable[[], ExportedProgram] | None = None
    """Returns the network as it was exported before. Without it the network is exported when it is needed."""
    size: Size | None = None
    """The input size of the file to write, or None for any size."""
    fixed: bool = False
    """Whether the network is traced and calibrated at `size`."""

    @classmethod
    def load(cls, bound: BoundRecipe, source: Source, device: str = "auto", size: Size | None = None) -> "Inputs":
        """Read the network and cut patches from the recipe's images, by default from sample photographs."""
        loaded = source.load(bound.registry, size)
        size = size or loaded.only_size
        if size is not None:
            _check_multiple(size, loaded.record)
        fixed = size is not None and (bool(loaded.only_size) or set(size[2:]) == {bound.recipe.calibration.size})
        patches = _patches(bound.recipe, loaded.record, size[2:] if size and fixed else None)
        return cls(bound, loaded, patches, device_of(device), size=size, fixed=fixed)

    @classmethod
    def of_run(cls, run: Run, images: Path | None = None, scale: int | None = None, device: str = "auto") -> "Inputs":
        """Take the network of a run folder and other images, by default those that the run was calibrated on."""
        bound = BoundRecipe.resolve(run.recipe, run.registry, images=images, scale=scale)
        patches = _patches(bound.recipe, run.record, fixed_size(run.network))
        return cls(bound, LoadedModel(run.network, run.record), patches, device_of(device), run.program)

    @property
    def recipe(self) -> Recipe:
        """The recipe."""
        return self.bound.recipe

    @property
    def shuffled(self) -> Tensor:
        """The patches in the order in which they are observed, on the device."""
        generator = torch.Generator().manual_seed(self.recipe.calibration.seed)
        return self.patches[torch.randperm(len(self.patches), generator=generator)].to(self.device)

    def program(self) -> ExportedProgram:
        """Export the network. Every call returns a new program."""
        if self.exported:
            return self.exported()
        record = self.loaded.record
        if self.size and self.fixed:
            return export_at_size(self.loaded.module, self.size)
        return export_network(self.loaded.module, multiple=record.multiple, channels=record.channels)

    def at_size(self) -> "Inputs | None":
        """Return the inputs at the size of the file to write, or None if there is no such size or it is used already.

        A network that cannot be traced for any size may still be traced for one.
        """
        if self.size is None or self.fixed:
            return None
        return replace(self, patches=_patches(self.recipe, self.loaded.record, self.size[2:]), fixed=True)


def _check_multiple(size: Size, record: ModelRecord) -> None:
    fitted = tuple(map(record.fitted, size[2:]))
    if fitted != size[2:]:
        raise SrptqError(
            f"input_size: {size[2]} x {size[3]}, and {record.name} takes multiples of {record.multiple}; "
            f"give {fitted[0]} x {fitted[1]}"
        )


def _patches(recipe: Recipe, record: ModelRecord, fixed: tuple[int, int] | None = None) -> Tensor:
    """Cut patches of the recipe's size, or of the fixed size. Images that are smaller than that are mirrored."""
    settings = recipe.calibration
    height, width = fixed or (record.fitted(settings.size),) * 2
    if settings.choose == "noise":
        pixels = noise_patches(settings.patches, max(height, width), settings.seed)[:, :height, :width]
        return to_tensor(pixels, record.input_range, record.channels)
    drawn = settings.patches * (CANDIDATES if settings.choose == "detail" else 1)
    images = _images(recipe, record.scale)
    if fixed:
        images = [Image(image.name, mirrored(image.pixels, fixed)) for image in images]
    pixels = random_patches(images, drawn, fixed or height, settings.seed)
    if settings.choose == "detail":
        pixels = most_detailed(pixels, settings.patches)
    return to_tensor(pixels, record.input_range, record.channels)


def _images(recipe: Recipe, scale: int) -> list[Image]:
    settings = recipe.calibration
    if settings.images is None:
        return sample_images(settings.scale or max(scale, 2))
    return load_images(Path(settings.images), scale=settings.scale)
