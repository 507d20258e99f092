"""train(): from a calibrated run to a trained one, in a run folder of its own."""

import json
import logging
import shutil
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import torch
from torch import Tensor

from srptq_plugin.data.images import Image, load_images, to_pixels, to_tensor
from srptq_plugin.data.resize import Pixels
from srptq_plugin.deploy.quant_table import QuantTable
from srptq_plugin.errors import SrptqError, first_line
from srptq_plugin.evaluation.pairs import Pair, load_pairs
from srptq_plugin.evaluation.scoring import mean_scores
from srptq_plugin.graph.export import graph_of
from srptq_plugin.graph.network import Network
from srptq_plugin.planning.planner import make_plan
from srptq_plugin.planning.prepared_graph import PreparedGraph, fixed_size
from srptq_plugin.plugins.registry import Registry
from srptq_plugin.qat.batches import Patches, held_out
from srptq_plugin.qat.initialize import initialize
from srptq_plugin.qat.provenance import check_origins, origins_of
from srptq_plugin.qat.training import Training, TrainingOptions, Validation, train, validation_of
from srptq_plugin.recipes.binding import qconfigs_of, rules_of
from srptq_plugin.recipes.recipe import Recipe, check_names
from srptq_plugin.recipes.schema import TrainingSettings
from srptq_plugin.runs.atomic_folder import locked, writing
from srptq_plugin.runs.folder import RunFolder
from srptq_plugin.runs.run import NETWORK, PROGRAM, TRAINED, Run
from srptq_plugin.runs.writing import Clock, RunWriter
from srptq_plugin.utils.devices import device_of
from srptq_plugin.utils.progress import Progress, quiet

logger = logging.getLogger(__name__)
CHECKPOINT = "checkpoint.pt"
EQUAL = 150.0
"""The PSNR that is told where images are equal: a record holds no infinity."""
LOOKED = 4
"""Batches that quantizers may look at beforehand."""


@dataclass(frozen=True)
class Images:
    """Low-resolution images and, where they are known, what these were made from."""

    lows: Sequence[Image]
    highs: Sequence[Image] | None

    def split(self) -> tuple["Images", "Images"]:
        """Those to train on, and those held out."""
        out = held_out(len(self.lows))
        if out >= len(self.lows):
            raise SrptqError("--images: one image; give more, as some are held out to validate on, or give --data")
        return self[:-out], self[-out:]

    def all(self) -> Iterator[Image]:
        """The low-resolution images, then the others."""
        yield from chain(self.lows, self.highs or ())

    def __getitem__(self, part: slice) -> "Images":
        return Images(self.lows[part], None if self.highs is None else self.highs[part])


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
    """Train the network of a run from its bounds, and write a run folder.

    `images` are low-resolution images, for which the float network is the teacher; or pairs (`HR` and `LR_x4`) or, with
    `scale`, photographs to be made smaller, which are what is learned then. `data`: pairs to validate on.
    """
    registry = registry or Registry()
    start = Run.open(run, registry)
    chosen = _recipe(recipe, overrides, toolkit)
    check_names(chosen, registry)
    rules_of(chosen, registry)
    registry.target(chosen.target).load().require()
    place, clock = RunFolder(Path(out)), Clock()
    beside = place.folder.with_name(f"{place.folder.name}.training")
    if (beside / CHECKPOINT).is_file() != resume:
        raise SrptqError(_about_resuming(beside, resume=resume))
    with clock("load"):
        given = _images(images, scale, start)
        given, judged = given.split() if data is None else (given, _pairs(data, start.scale))
    prepared = _prepared(chosen, start, registry).to(device_of(device))
    origins = origins_of(chosen, start, chain(given.all(), judged.all()))
    job = _TrainJob(chosen.training, start, prepared, given, judged, beside, origins, progress)
    with clock("train"), _told_where_to_go_on(beside):
        log = job.train(resume=resume)
    prepared.to(torch.device("cpu"))
    writer = RunWriter(chosen, start.record, registry, start.input_size, clock, progress)
    with place.draft() as draft:
        _write(draft, QuantTable.of(prepared), writer, start, log)
    shutil.rmtree(beside)
    return Run.open(place.folder, registry)


@contextmanager
def _told_where_to_go_on(beside: Path) -> Generator[None]:
    """Whoever interrupts a training learns what is left of it."""
    try:
        yield
    except KeyboardInterrupt:
        if (beside / CHECKPOINT).is_file():
            logger.warning("interrupted; %s holds what was trained: go on with --resume", beside)
        raise


def _about_resuming(beside: Path, *, resume: bool) -> str:
    if resume:
        return f"--resume: no {beside / CHECKPOINT}; train without it first"
    return f"{beside}: holds an interrupted training; go on with --resume, or remove it to start anew"


def _recipe(recipe: str | Path | Recipe, overrides: Sequence[str], toolkit: str | None) -> Recipe:
    loaded = recipe if isinstance(recipe, Recipe) else Recipe.load(recipe, overrides)
    return loaded if toolkit is None else loaded.model_copy(update={"toolkit": toolkit})


def _images(folder: Path, scale: int | None, run: Run) -> Images:
    if scale is not None and scale != run.scale:
        raise SrptqError(f"--scale {scale}: the network of {run.folder} upscales by {run.scale}")
    paired = any((folder / name).is_dir() for name in ("HR", f"LR_x{run.scale}"))
    return _pairs(folder, run.scale) if paired or scale is not None else Images(load_images(folder), None)


def _pairs(folder: Path, scale: int) -> Images:
    pairs = load_pairs(folder, scale).usable
    return Images([pair.low for pair in pairs], [pair.high for pair in pairs])


def _prepared(recipe: Recipe, run: Run, registry: Registry) -> PreparedGraph:
    """The run's network as the recipe quantizes it, with the run's bounds, weights and biases."""
    program = run.program()
    network = Network(graph_of(program))
    plan = make_plan(network, rules_of(recipe, registry), recipe, run.input_range, qconfigs_of(recipe, registry))
    prepared = registry.toolkit(recipe.toolkit).load().realize(program, plan)
    left = list(initialize(prepared.module, run.folder, registry=registry).left)
    if left:
        raise SrptqError(
            f"{run.folder}: has no bounds for {', '.join(left[:3])}{' and others' if len(left) > 3 else ''}, "  # noqa: PLR2004
            "which the recipe quantizes; quantize with this recipe first, or train with that of the run"
        )
    return prepared


@dataclass(frozen=True)
class _TrainJob:
    settings: TrainingSettings
    run: Run
    prepared: PreparedGraph
    images: Images
    judged: Images
    beside: Path
    origins: Mapping[str, str]
    progress: Progress

    def train(self, *, resume: bool) -> list[Validation]:
        """Train to the end; the records of the validations."""
        low, high = self.run.input_range
        options, batches = TrainingOptions(**self.settings.options()), self._batches()
        self.prepared.on_train_begin(torch.cat([batches(step)[0] for step in range(LOOKED)]))
        training = Training(self.prepared, options, high - low)
        log = self._resumed(training) if resume else []
        self.beside.mkdir(parents=True, exist_ok=True)
        with writing(str(self.beside), self.beside), locked(self.beside):
            for record in train(training, batches, self._score, self.progress):
                log.append(record)
                logger.info("step %d: PSNR %.3f dB", record.step, record.psnr)
                self._save(training, log)
        return log

    def _batches(self) -> Callable[[int], Any]:
        settings, device = self.settings, self._device
        patches = Patches(
            self.images.lows,
            self.images.highs,
            self.run.scale,
            self._patch,
            settings.batch,
            self.run.input_range,
            settings.seed,
        )
        return lambda step: tuple(None if each is None else each.to(device) for each in patches(step))

    @property
    def _patch(self) -> int:
        """The side of a patch: the recipe's, or the next that the network takes."""
        fixed = fixed_size(self.run.network)
        if fixed is None:
            return self.run.record.fitted(self.settings.patch)
        if fixed[0] != fixed[1]:
            raise SrptqError(
                f"{self.run.folder}: its network takes images of {fixed[0]} x {fixed[1]} only, and training turns "
                "patches; quantize with a square --input-size"
            )
        return fixed[0]

    def _score(self, network: Callable[[Tensor], Tensor]) -> float:
        """Mean PSNR on Y."""
        psnr, _ = mean_scores(
            lambda image: network(image.to(self._device)), self._judged_pairs, self.run.scale, self.run.input_range
        )
        return min(psnr, EQUAL)

    @cached_property
    def _judged_pairs(self) -> list[Pair]:
        """What is validated on: photographs or, without them, what the float network draws."""
        lows = [self._cut(low, 1) for low in self.judged.lows]
        if self.judged.highs is None:
            highs = [Image(low.name, self._drawn(low)) for low in lows]
        else:
            highs = [self._cut(high, self.run.scale) for high in self.judged.highs]
        return [Pair(low, high) for low, high in zip(lows, highs, strict=True)]

    def _cut(self, image: Image, factor: int) -> Image:
        """Cut an image, of so many pixels a pixel of the network's input, to a size that the network takes."""
        multiple = self.run.record.multiple
        height, width = (side // factor for side in image.pixels.shape[:2])
        taken = fixed_size(self.run.network) or (height // multiple * multiple, width // multiple * multiple)
        if not (0 < taken[0] <= height and 0 < taken[1] <= width):
            raise SrptqError(f"{image.name}: {width}x{height} pixels is smaller than what the network takes")
        return Image(image.name, image.pixels[: factor * taken[0], : factor * taken[1]])

    def _drawn(self, low: Image) -> Pixels:
        image = to_tensor(low.pixels[None], self.run.input_range).to(self._device)
        return to_pixels(self.prepared.float_forward(image)[0][0], self.run.input_range)

    @property
    def _device(self) -> torch.device:
        return next(self.prepared.module.parameters()).device

    def _save(self, training: Training, log: list[Validation]) -> None:
        part = self.beside / f"{CHECKPOINT}.part"
        state = {**training.state(), "log": [asdict(record) for record in log], "origins": self.origins}
        torch.save(state, part)
        part.replace(self.beside / CHECKPOINT)

    def _resumed(self, training: Training) -> list[Validation]:
        path = self.beside / CHECKPOINT
        try:
            _check_bytes(path)
            state: Mapping[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
            check_origins(state["origins"], self.origins)
            log = [validation_of(record) for record in state["log"]]
            training.resume(state)
            _check_log(log, training.done)
        except SrptqError as error:
            raise SrptqError(f"{path}: {error}") from error
        except Exception as error:  # a damaged pickle lets all kinds through
            told = first_line(error)
            raise SrptqError(f"{path}: damaged ({told}); remove {self.beside} to start anew") from error
        return log


def _check_bytes(path: Path) -> None:
    """Compare with the checksums in the file. `torch.load` ignores them."""
    with ZipFile(path) as archive:
        if broken := archive.testzip():
            raise ValueError(f"{broken} differs from its checksum")


def _check_log(log: list[Validation], done: int) -> None:
    if [record.step for record in log][-1:] != [done]:
        raise ValueError(f"its log does not end at step {done}")


def _write(draft: Path, table: QuantTable, writer: RunWriter, start: Run, log: list[Validation]) -> None:
    """The float network stays the run's."""
    for name in (NETWORK, PROGRAM):
        shutil.copyfile(start.folder / name, draft / name)
    (draft / TRAINED).write_text("".join(json.dumps(asdict(record)) + "\n" for record in log))
    with writer.clock("export"):
        artifacts = writer.write(draft, table)
    best = max(log, key=lambda record: record.psnr)
    training = {"from": str(start.folder), "steps": log[-1].step, "psnr_before": log[0].psnr}
    figures = {"training": {**training, "psnr": best.psnr, "best_step": best.step}, "reconstruction": {}}
    writer.finish(draft, table, artifacts, figures)
