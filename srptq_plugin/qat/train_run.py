"""train_run(): continue from a calibrated run to a trained one, in a run folder of its own."""

import json
import logging
import shutil
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from srptq_plugin.data.images import Image, to_pixels, to_tensor
from srptq_plugin.data.resize import Pixels
from srptq_plugin.deploy.quant_table import QuantTable
from srptq_plugin.errors import ArgumentError, SrptqError
from srptq_plugin.evaluation.pairs import Pair
from srptq_plugin.evaluation.scoring import mean_scores
from srptq_plugin.graph.export import graph_of
from srptq_plugin.graph.network import Network
from srptq_plugin.planning.prepared_graph import PreparedGraph, fixed_size
from srptq_plugin.plugins.bound_recipe import BoundRecipe
from srptq_plugin.plugins.registry import Registry
from srptq_plugin.qat.batches import Batch, Patches
from srptq_plugin.qat.initialize import initialize
from srptq_plugin.qat.provenance import origins_of
from srptq_plugin.qat.training import Training, Validation, resolve_epochs, train
from srptq_plugin.qat.training_checkpoint import restore_training, save_training
from srptq_plugin.qat.training_images import TrainingImages
from srptq_plugin.recipes.recipe import Recipe
from srptq_plugin.recipes.schema import TrainingSettings
from srptq_plugin.runs.atomic_folder import locked, writing
from srptq_plugin.runs.folder import RunFolder
from srptq_plugin.runs.run import NETWORK, PROGRAM, TRAINED, Run
from srptq_plugin.runs.writing import Clock, RunWriter
from srptq_plugin.utils.checkpoint import Checkpoint
from srptq_plugin.utils.devices import device_of
from srptq_plugin.utils.distributed import collect, deal, from_first, is_first, world_size
from srptq_plugin.utils.progress import Progress, quiet

logger = logging.getLogger(__name__)
HIGHEST_PSNR = 150.0
"""The PSNR of equal images, since JSON holds no infinity."""
STATISTICS_BATCHES = 4
"""Batches from which quantizers may collect statistics before training."""
NAMED_GROUPS = 3
"""Groups that a message names."""


def train_run(
    recipe: str | Path | Recipe,
    run: Path | str,
    *,
    images: Path,
    scale: int | None = None,
    data: Path | None = None,
    out: Path | str = "trained",
    overrides: Sequence[str] = (),
    toolkit: str | None = None,
    resume: bool = False,
    device: str = "auto",
    registry: Registry | None = None,
    progress: Progress = quiet,
) -> Run:
    """Train the network of a run from its bounds, and write a run folder. Several processes share each batch.

    Args:
        recipe: a recipe, the name of a shipped one, or the path of a .yaml file. Its section `training` says how.
        run: the folder of the calibrated run.
        images: low-resolution images, for which the float network is the teacher. Or pairs (`HR` and `LR_x4`), or
            photographs with a `scale`: then their high-resolution images are learned.
        scale: the factor by which photographs are downscaled.
        data: pairs to validate on. By default some images are held out.
        out: the folder of the trained run.
        overrides: changes of the recipe, each `dotted.key=value`.
        toolkit: the toolkit in place of the recipe's.
        resume: continue an interrupted training of the same folder.
        device: where the network trains, such as `cpu` or `cuda:0`.
        registry: the plugins, by default all that are installed.
        progress: called with the current phase, and how much of it is done.
    """
    registry = registry or Registry()
    start = Run.open(run, registry)
    bound = BoundRecipe.resolve(recipe, registry, overrides=overrides, toolkit=toolkit)
    bound.target.require()
    folder, clock = RunFolder(Path(out)), Clock()
    training_folder = folder.folder.with_name(f"{folder.folder.name}.training")
    from_first(lambda: _check_resuming(training_folder, resume=resume))
    _check_batch(bound.recipe.training.batch)
    with clock("load"):
        training_images = TrainingImages.load(images, start, scale)
        if data is None:
            training_images, validation_images = training_images.split()
        else:
            validation_images = TrainingImages.load_pairs(data, start.scale)
    prepared = _prepare(bound, start).to(device_of(device))
    origins = origins_of(bound.recipe, start, chain(training_images.all(), validation_images.all()))
    checkpoint = Checkpoint(training_folder, origins)
    settings = resolve_epochs(bound.recipe.training, len(training_images.lows))
    job = _TrainJob(settings, start, prepared, training_images, validation_images, checkpoint, progress)
    with clock("train"), _warn_if_interrupted(checkpoint):
        log = job.train(resume=resume)
    prepared.to(torch.device("cpu"))
    writer = RunWriter(bound, start.record, start.input_size, clock, progress)
    if is_first():
        with folder.draft() as draft:
            _write(draft, QuantTable.of(prepared), writer, start, log)
        shutil.rmtree(training_folder)
    from_first(lambda: None)  # the others wait for the files
    return Run.open(folder.folder, registry)


def _check_resuming(folder: Path, *, resume: bool) -> None:
    path = Checkpoint(folder, {}).path
    if resume and not path.is_file():
        raise ArgumentError("resume", f"no {path}; train without it first")
    if path.is_file() and not resume:
        raise SrptqError(
            f"{folder}: holds an interrupted training; continue with `resume=True`, or remove it to start again"
        )


def _check_batch(batch: int) -> None:
    if batch % world_size():
        raise SrptqError(
            f"training.batch: {batch} patches cannot be shared by {world_size()} processes; give a multiple of "
            f"{world_size()}, or start fewer processes"
        )


@contextmanager
def _warn_if_interrupted(checkpoint: Checkpoint) -> Generator[None]:
    """Say how to continue if the user interrupts a training that has a checkpoint."""
    try:
        yield
    except KeyboardInterrupt:
        if checkpoint.path.is_file():
            logger.warning("interrupted; %s holds what was trained: continue with `resume=True`", checkpoint.folder)
        raise


def _prepare(bound: BoundRecipe, run: Run) -> PreparedGraph:
    """Prepare the run's network by the recipe, and start it from the run's bounds, weights and biases."""
    program = run.program()
    plan = bound.plan(Network(graph_of(program)), run.input_range)
    prepared = bound.toolkit.realize(program, plan)
    left = list(initialize(prepared.module, run.folder, registry=bound.registry).left)
    if left:
        others = " and others" if len(left) > NAMED_GROUPS else ""
        raise SrptqError(
            f"{run.folder}: has no bounds for {', '.join(left[:NAMED_GROUPS])}{others}, which the recipe quantizes; "
            "quantize with this recipe first, or train with the run's recipe"
        )
    return prepared


@dataclass(frozen=True)
class _TrainJob:
    settings: TrainingSettings
    run: Run
    prepared: PreparedGraph
    images: TrainingImages
    validation_images: TrainingImages
    checkpoint: Checkpoint
    progress: Progress

    def train(self, *, resume: bool) -> list[Validation]:
        """Train to the end. Return the records of the validations."""
        low, high = self.run.input_range
        batches = self._batches()
        self.prepared.on_train_begin(torch.cat([batches(step)[0] for step in range(STATISTICS_BATCHES)]))
        training = Training(self.prepared, self.settings, high - low)
        log = restore_training(self.checkpoint, training) if resume else []
        folder = self.checkpoint.folder
        folder.mkdir(parents=True, exist_ok=True)
        with writing(str(folder), folder), locked(folder) if is_first() else nullcontext():
            for record in train(training, batches, self._score, self.progress):
                log.append(record)
                logger.info("step %d: PSNR %.3f dB", record.step, record.psnr)
                save_training(self.checkpoint, training, log)
        return log

    def _batches(self) -> Callable[[int], Batch]:
        settings, device = self.settings, self._device
        patches = Patches(
            self.images.lows,
            self.images.highs,
            self.run.scale,
            self._patch_size,
            settings.batch,
            self.run.input_range,
            settings.seed,
            self.run.record.channels,
        )

        def batches(step: int) -> Batch:
            low, high = patches(step)
            return deal(low).to(device), None if high is None else deal(high).to(device)

        return batches

    @property
    def _patch_size(self) -> int:
        """Height and width of a patch: the recipe's, or the next larger that the network takes."""
        fixed = fixed_size(self.run.network)
        if fixed is None:
            return self.run.record.fitted(self.settings.patch)
        if fixed[0] != fixed[1]:
            raise SrptqError(
                f"{self.run.folder}: its network takes images of {fixed[0]} x {fixed[1]} only, and training turns "
                "patches; quantize with a square `input_size`"
            )
        return fixed[0]

    def _score(self, network: Callable[[Tensor], Tensor]) -> float:
        """Compute the mean PSNR on Y over the validation images."""
        record = self.run.record
        facts = record.scale, record.input_range, record.channels

        def upscale(image: Tensor) -> Tensor:
            return network(image.to(self._device))

        rows = [mean_scores(upscale, [pair], *facts)[0] for pair in deal(self._validation_pairs)]
        return min(float(np.mean(collect(rows))), HIGHEST_PSNR)

    @cached_property
    def _validation_pairs(self) -> list[Pair]:
        """The validation images. The high-resolution ones are photographs, or else what the float network makes."""
        lows = [self._cut(low, 1) for low in self.validation_images.lows]
        if self.validation_images.highs is None:
            highs = [Image(low.name, self._float_output(low)) for low in lows]
        else:
            highs = [self._cut(high, self.run.scale) for high in self.validation_images.highs]
        return [Pair(low, high) for low, high in zip(lows, highs, strict=True)]

    def _cut(self, image: Image, factor: int) -> Image:
        """Cut an image to a size that the network takes.

        Args:
            image: a low- or high-resolution image.
            factor: how many of its pixels one pixel of the network's input stands for, on each axis.
        """
        multiple = self.run.record.multiple
        height, width = (side // factor for side in image.pixels.shape[:2])
        taken = fixed_size(self.run.network) or (height // multiple * multiple, width // multiple * multiple)
        if not (0 < taken[0] <= height and 0 < taken[1] <= width):
            raise SrptqError(f"{image.name}: {width}x{height} pixels is smaller than what the network takes")
        return Image(image.name, image.pixels[: factor * taken[0], : factor * taken[1]])

    def _float_output(self, low: Image) -> Pixels:
        image = to_tensor(low.pixels[None], self.run.input_range, self.run.record.channels).to(self._device)
        return to_pixels(self.prepared.float_forward(image)[0][0], self.run.input_range)

    @property
    def _device(self) -> torch.device:
        return next(self.prepared.module.parameters()).device


def _write(draft: Path, table: QuantTable, writer: RunWriter, start: Run, log: list[Validation]) -> None:
    """Write the trained run. Its float network is the calibrated run's."""
    for name in (NETWORK, PROGRAM):
        shutil.copyfile(start.folder / name, draft / name)
    (draft / TRAINED).write_text("".join(json.dumps(asdict(record)) + "\n" for record in log))
    with writer.clock("export"):
        artifacts = writer.write(draft, table)
    best = max(log, key=lambda record: record.psnr)
    training = {"from": str(start.folder), "steps": log[-1].step, "psnr_before": log[0].psnr}
    figures = {"training": {**training, "psnr": best.psnr, "best_step": best.step}, "reconstruction": {}}
    writer.finish(draft, table, artifacts, figures)
