"""A run folder, written by `quantize` or `train` and read back by the other commands."""

import copy
import json
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram

from srptq_plugin.data.images import Image, load_images, sample_images
from srptq_plugin.deploy.fixed_point import use_fixed_point
from srptq_plugin.deploy.htp import HtpConv
from srptq_plugin.deploy.quant_table import QuantTable, fault_of
from srptq_plugin.errors import LONGEST, SrptqError, first_line, short
from srptq_plugin.graph.export import graph_of
from srptq_plugin.graph.network import Network
from srptq_plugin.graph.rules import Rules
from srptq_plugin.graph.types import Array, Size
from srptq_plugin.models.model_record import ModelRecord
from srptq_plugin.planning.prepared_graph import PreparedGraph
from srptq_plugin.plugins.bound_recipe import BoundRecipe, bind_target
from srptq_plugin.plugins.protocols import Target
from srptq_plugin.plugins.registry import Registry
from srptq_plugin.recipes.recipe import Recipe
from srptq_plugin.runs.atomic_folder import complete
from srptq_plugin.runs.program_file import read_program
from srptq_plugin.runs.run_record import SCHEMA, read_artifacts, read_model, read_size

RECIPE = "recipe.yaml"
NETWORK = "model.onnx"
PROGRAM = "model.pt2"
TABLE = "quant_table.safetensors"
SUMMARY = "summary.json"
TRAINED = "training.jsonl"
Forward = Callable[[Array], Array]
Ratio = float
"""A float, where `Run.float` hides its name."""
"""A network as a function on arrays [images, channels, height, width]."""
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Run:
    """A folder with a recipe, the float network, its quant table, the target's files and a summary."""

    folder: Path
    registry: Registry

    @classmethod
    def open(cls, folder: Path | str, registry: Registry | None = None) -> "Run":
        """Open a run folder. Raise SrptqError if a file is missing or its summary is damaged."""
        folder = Path(folder)
        if not folder.is_dir():
            raise SrptqError(f"{folder}: no such run folder; `srptq quantize` makes one")
        complete(folder, SUMMARY)
        missing = [name for name in (RECIPE, NETWORK, PROGRAM, TABLE, SUMMARY) if not (folder / name).is_file()]
        if missing:
            raise SrptqError(
                f"{folder}: not a whole run folder, {', '.join(missing)} missing; run `srptq quantize` again"
            )
        run = cls(folder, registry or Registry())
        if run.summary.get("schema") != SCHEMA:
            schema = short(str(run.summary.get("schema")))
            raise SrptqError(
                f"{folder / SUMMARY}: schema {schema}, this version reads {SCHEMA}; run `srptq quantize` again"
            )
        absent = [key for key in ("model", "artifacts") if key not in run.summary]
        if absent:
            raise SrptqError(f"{folder / SUMMARY}: no {' and no '.join(absent)} in it; run `srptq quantize` again")
        if read_artifacts(run.summary) is None:
            raise SrptqError(f"{folder / SUMMARY}: its artifacts are not names of files; run `srptq quantize` again")
        run.record  # noqa: B018 - reading it refuses a damaged one here
        return run

    @cached_property
    def summary(self) -> dict[str, Any]:
        """The content of `summary.json`."""
        try:
            summary = json.loads((self.folder / SUMMARY).read_text())
        except (ValueError, RecursionError) as error:
            raise SrptqError(
                f"{self.folder / SUMMARY}: not JSON ({first_line(error)}); run `srptq quantize` again"
            ) from error
        return summary if isinstance(summary, dict) else {}

    @cached_property
    def recipe(self) -> Recipe:
        """The resolved recipe, with all defaults filled in."""
        return Recipe.load(self.folder / RECIPE)

    @cached_property
    def rules(self) -> Rules:
        """The rules of the target's preset."""
        return bind_target(self.recipe, self.registry)[1]

    @cached_property
    def table(self) -> QuantTable:
        """The quant table: the plan, and the encoding of every site."""
        table = QuantTable.load(self.folder / TABLE)
        if fault := fault_of(table, Network(self.network)):
            raise SrptqError(
                f"{self.folder / TABLE}: of another network than {PROGRAM} ({fault}); run `srptq quantize` again"
            )
        if not table.states:
            return table
        # Dynamic quantizers are built again from the recipe, and the table restores their states.
        return replace(table, plan=replace(table.plan, qconfigs=BoundRecipe.of(self.recipe, self.registry).qconfigs))

    @cached_property
    def target(self) -> Target:
        """The target that the files are for."""
        return self.registry.target(self.recipe.target).load()

    @property
    def artifacts(self) -> list[Path]:
        """The target's files. The first is the one to run."""
        return [self.folder / name for name in self.summary["artifacts"]]

    @cached_property
    def record(self) -> ModelRecord:
        """The record of the network."""
        try:
            return read_model(self.summary["model"])
        except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
            raise SrptqError(
                f"{self.folder / SUMMARY}: its entry for the model is damaged ({short(repr(error), LONGEST)}); "
                "run `srptq quantize` again"
            ) from error

    @property
    def input_range(self) -> tuple[float, float]:
        """The levels of black and white at the network's input and output."""
        return self.record.input_range

    @property
    def scale(self) -> int:
        """The network's upscaling factor."""
        return self.record.scale

    @property
    def input_size(self) -> Size | None:
        """The only input that the exported file takes, or None if it takes any height and width."""
        return read_size(self.summary["model"])

    @property
    def size(self) -> tuple[int, int] | None:
        """The height and width of `input_size`, or None."""
        return self.input_size[2:] if self.input_size else None

    def images(self) -> list[Image]:
        """Load the calibration images, or the sample photographs if the folder is gone."""
        settings = self.recipe.calibration
        if settings.images and Path(settings.images).is_dir():
            return load_images(Path(settings.images), scale=settings.scale)
        return sample_images(max(self.scale, 2))

    @cached_property
    def network(self) -> fx.GraphModule:
        """The float network."""
        with _refusing(self.folder / PROGRAM):
            graph = graph_of(self.program())
            channels = Network(graph).input.meta["val"].shape[1]
        if channels != self.record.channels:
            raise SrptqError(
                f"{self.folder / SUMMARY}: says that images have {self.record.channels} channels, and {PROGRAM} reads "
                f"{channels}; run `srptq quantize` again"
            )
        return graph

    def program(self) -> ExportedProgram:
        """Read the float network as it was exported. Each call returns a new one."""
        with _refusing(self.folder / PROGRAM):
            return read_program(self.folder / PROGRAM)

    def float(self, device: torch.device = CPU) -> Forward:
        """Return the float network as a function on arrays."""
        return _on_arrays(PreparedGraph.float_only(copy.deepcopy(self.network)), device)

    def simulation(self, device: torch.device = CPU, *, double: bool = False, noise: Ratio = 0.0) -> Forward:
        """Return the simulation, as a function on arrays.

        Args:
            device: Where it computes.
            double: Compute in double precision. The levels are the same, and values near a tie may round elsewhere.
            noise: The relative error of each activation before it is rounded, as a standard deviation.
        """
        return _on_arrays(self.simulated(double=double, noise=noise), device)

    def simulated(self, *, double: bool = False, noise: Ratio = 0.0) -> PreparedGraph:
        """Return the quantized network, simulated in torch from the quant table.

        Operations between quantizers round as on the target. The arguments are as for `simulation`.
        """
        network = use_fixed_point(self.table.simulate(copy.deepcopy(self.network)), self.rules)
        if noise:
            generator = torch.Generator().manual_seed(0)
            for quantizer in network.of_role("activation").values():
                quantizer.register_forward_pre_hook(partial(_disturb, noise, generator))
            for module in network.module.modules():
                if isinstance(module, HtpConv):
                    module.disturb(generator)
        if double:
            network.capture.double()
        return network


@contextmanager
def _refusing(path: Path) -> Generator[None]:
    """Turn any error of reading a damaged file into an SrptqError that names the file."""
    try:
        yield
    except SrptqError:
        raise
    except Exception as error:
        raise SrptqError(f"{path}: not readable ({first_line(error)}); run `srptq quantize` again") from error


def _disturb(noise: Ratio, generator: torch.Generator, _module: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
    """Return the input of a module with relative errors."""
    values = inputs[0]
    return values * (1 + noise * torch.randn(values.shape, generator=generator, dtype=values.dtype))


def _on_arrays(network: PreparedGraph, device: torch.device) -> Forward:
    network.to(device)
    kind = next((parameter.dtype for parameter in network.capture.parameters()), torch.float32)

    def forward(image: Array) -> Array:
        with torch.no_grad():
            return np.asarray(network(torch.from_numpy(image).to(device, kind)).float().cpu())

    return forward
