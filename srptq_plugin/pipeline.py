"""quantize(): calibrate a network, write its files, verify them, all in one run folder."""

import logging
import shutil
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import nn
from torch.export import ExportedProgram

from srptq_plugin.accuracy.control import DropControl
from srptq_plugin.accuracy.judge import DropLimit, Judge
from srptq_plugin.calibration.calibration_checkpoint import CalibrationCheckpoint
from srptq_plugin.calibration.calibrator import Calibrator
from srptq_plugin.calibration.inputs import Inputs, Source
from srptq_plugin.deploy.onnx_export import export_float
from srptq_plugin.deploy.quant_table import QuantTable
from srptq_plugin.errors import SrptqError
from srptq_plugin.graph.export import export_network
from srptq_plugin.graph.types import Size
from srptq_plugin.models.model_record import CHANNELS, check_range
from srptq_plugin.models.plausible import warn_of_range
from srptq_plugin.plugins.bound_recipe import BoundRecipe
from srptq_plugin.plugins.protocols import Checker
from srptq_plugin.plugins.registry import Registry
from srptq_plugin.recipes import DEFAULT_RECIPE
from srptq_plugin.recipes.recipe import Recipe
from srptq_plugin.runs.folder import RunFolder
from srptq_plugin.runs.run import NETWORK, PROGRAM, Run
from srptq_plugin.runs.summary import of_group
from srptq_plugin.runs.writing import RunWriter, amend_summary
from srptq_plugin.utils.checkpoint import CHECKPOINT
from srptq_plugin.utils.distributed import from_first, is_first
from srptq_plugin.utils.progress import Progress, quiet
from srptq_plugin.utils.timing import Clock

logger = logging.getLogger(__name__)
STOPPED = ".quantizing"
"""The end of the name of the folder with the state of a run that is not finished."""


def quantize(
    recipe: str | Path | Recipe = DEFAULT_RECIPE,
    *,
    model: str | Path | nn.Module | None = None,
    weights: Path | None = None,
    model_args: Mapping[str, Any] | None = None,
    images: Path | None = None,
    scale: int | None = None,
    out: Path | str = "run",
    overrides: Sequence[str] = (),
    input_size: Size | None = None,
    input_range: tuple[float, float] | None = None,
    output: str | int | None = None,
    allow_missing: bool = False,
    toolkit: str | None = None,
    resume: bool = False,
    device: str = "auto",
    max_drop: float | None = None,
    data: Path | str | None = None,
    registry: Registry | None = None,
    progress: Progress = quiet,
) -> Run:
    """Quantize a network by a recipe and write a run folder.

    Args:
        recipe: a recipe, the name of a shipped one, or the path of a .yaml file.
        model: a module, the name of a family of networks, the checkpoint of one, an ONNX file, or a factory as
            `package.module:function`. By default the bundled EDSR.
        weights: the checkpoint of a family or a factory.
        model_args: arguments of the family or the factory, or values of the ONNX file's inputs besides the image.
        images: the folder of calibration images. By default the photographs of scikit-image.
        scale: the factor by which to downscale the images, if they are high-resolution photographs.
        out: the run folder.
        overrides: changes of the recipe, each `dotted.key=value`.
        input_size: the only input that the written file takes, as (1, 3, height, width), or with 1 for 3 for Y. By
            default it takes any.
        input_range: black and white at the network's input and output.
        output: the index or key of the output to quantize, if the network gives several. By default the last image.
        allow_missing: whether a factory's weights may lack keys, or have more. They are listed in a warning.
        toolkit: the toolkit in place of the recipe's.
        resume: go on from where an earlier call for the same folder was stopped. Without such a state, begin.
        device: where the network runs, such as `cpu` or `cuda:0`.
        max_drop: the dB of PSNR on Y that may be lost against the float network, in the runtime. Operations stay float,
            or tensors get more bits, until this holds. SrptqError is raised if no plan holds it.
        data: the images that decide about `max_drop`, as `evaluate` takes them.
        registry: the plugins, by default all that are installed.
        progress: called with the current phase, and how much of it is done.
    """
    _check_size(input_size)
    limit = DropLimit.of(max_drop, data)
    if input_range is not None:
        check_range(input_range)
    bound = BoundRecipe.resolve(
        recipe, registry or Registry(), overrides=overrides, images=images, scale=scale, toolkit=toolkit
    )
    bound.target.require()
    folder, clock = RunFolder(Path(out)), Clock()
    progress("loading network and images", 0, 0)
    with clock("load"):
        source = Source(model, weights, model_args or {}, input_range, output, allow_missing)
        inputs = Inputs.load(bound, source, device, input_size)
        warn_of_range(inputs.loaded, inputs.patches)
        judge = limit and Judge.load(limit.data, inputs.loaded.record.scale, inputs.device, progress)
    stopped = folder.folder.with_name(f"{folder.folder.name}{STOPPED}")
    job = _QuantizeJob(Calibrator(inputs, progress, clock), inputs.size, stopped, resume)
    with folder.draft() if is_first() else nullcontext() as draft:
        checkpoint = job.write_within(limit, judge, draft) if limit and judge and draft else job.write_into(draft)
    if checkpoint:
        checkpoint.remove()
    from_first(lambda: None)  # the others wait for the files
    return Run.open(folder.folder, bound.registry)


def _check_size(size: Size | None) -> None:
    images = [(1, channels) for channels in CHANNELS]
    if size is not None and (len(size) != 4 or size[:2] not in images or min(size) < 1):  # noqa: PLR2004 - axes
        raise SrptqError(
            f"input_size: {size}; give one image of three colors, such as (1, 3, 270, 480), or of Y: (1, 1, 270, 480)"
        )


@dataclass(frozen=True)
class _QuantizeJob:
    calibrator: Calibrator
    input_size: Size | None
    stopped: Path | None
    """The folder for the state of a run that is stopped, if one is kept."""
    resume: bool = False

    def write_within(self, limit: DropLimit, judge: Judge, draft: Path) -> CalibrationCheckpoint | None:
        """Write the run of the cheapest plan that holds a limit on the drop. Return the checkpoint of the first one."""
        first: list[CalibrationCheckpoint | None] = []

        def write(bound: BoundRecipe | None, folder: Path) -> Run:
            if bound is None:
                first.append(self.write_into(folder))
            else:
                with first[0].guarding() if first[0] else nullcontext():
                    self._by(bound).write_into(folder)
            return Run.open(folder, self.calibrator.inputs.bound.registry)

        control = DropControl(limit, judge, self.calibrator.inputs.patches, write, draft)
        try:
            with self.calibrator.clock("max drop"):
                chosen = control.run()
        except SrptqError as error:
            if not (first and first[0]):
                raise
            kept = f"the first plan's calibration is kept in {self.stopped}: `resume=True` goes on from there"
            raise SrptqError(f"{error}\n{kept}") from error
        amend_summary(chosen.folder, {"max_drop": control.record(chosen)})
        for path in chosen.folder.iterdir():
            path.replace(draft / path.name)
        for trial in control.trials:
            shutil.rmtree(trial.folder)
        return first[0]

    def _by(self, bound: BoundRecipe) -> "_QuantizeJob":
        """Return the job for another recipe on the same inputs. It keeps no state."""
        inputs = replace(self.calibrator.inputs, bound=bound)
        return _QuantizeJob(Calibrator(inputs, self.calibrator.progress), self.input_size, None)

    def write_into(self, draft: Path | None) -> CalibrationCheckpoint | None:
        """Calibrate, write all files and verify them, in a folder that is moved into place later.

        Return the checkpoint, which is useless then. A process without a draft shares the calibration only.
        """
        program = self.calibrator.trace()
        resume = self.resume and from_first(self._is_stopped)
        if draft and not resume:
            self._check(program, draft)
        checkpoint = self.stopped and CalibrationCheckpoint.make(self.stopped, self.calibrator.inputs, program)
        with checkpoint.guarding() if checkpoint else nullcontext():
            table = self.calibrator.calibrate(program, checkpoint, resume=resume)
            if draft:
                with checkpoint.keeping() if checkpoint else nullcontext():
                    self._finish(program, table, draft)
        return checkpoint

    def _is_stopped(self) -> bool:
        """Tell whether there is a run to resume. Warn if there is none."""
        path = (self.stopped or Path()) / CHECKPOINT
        if not path.is_file():
            logger.warning("no %s: nothing to resume, so the run starts from the beginning", path)
        return path.is_file()

    def _finish(self, program: ExportedProgram, table: QuantTable, draft: Path) -> None:
        calibrator, figures = self.calibrator, self.calibrator.figures
        calibrator.progress("writing files", 0, 0)
        with calibrator.clock("export"):
            artifacts = self._write(program, table, draft)
        summarized = {
            "rotated_db": _decibels(figures.rotated),
            "left_float_db": _decibels(figures.left_float),
            "equalized_db": _decibels(figures.equalized),
            "overflow": None if figures.overflow is None else asdict(figures.overflow),
            "reconstruction": dict(figures.reconstruction),
            "rounding_db": _decibels(figures.rounding),
        }
        groups = {group: of_group(*figures.at(group)) for group in table.plan.groups}
        self._writer().finish(draft, table, artifacts, summarized, groups)

    def _check(self, program: ExportedProgram, draft: Path) -> None:
        """Let the target refuse a network before any time is spent on calibration."""
        target = self.calibrator.inputs.bound.target
        if isinstance(target, Checker):
            self.calibrator.progress("checking what the target computes", 0, 0)
            with self.calibrator.clock("check"):
                self._export(program, draft)
                target.check(onnx.load(draft / NETWORK))

    def _write(self, program: ExportedProgram, table: QuantTable, draft: Path) -> list[str]:
        torch.export.save(program, draft / PROGRAM)
        recipe = self.calibrator.inputs.recipe
        if recipe.rotate or recipe.equalize or not (draft / NETWORK).exists():
            self._export(program, draft)  # rotating and equalizing change the weights that `_check` exported
        return self._writer().write(draft, table)

    def _export(self, program: ExportedProgram, draft: Path) -> None:
        """Write the float network as ONNX."""
        record = self.calibrator.inputs.loaded.record
        deployed = self._traced_at_size or program
        for name, value in deployed.state_dict.items():
            value.data.copy_(program.state_dict[name])  # rotating and equalizing have changed them
        metadata = {
            "scale": record.scale,
            "input_range": record.input_range,
            "mean": record.mean,
            "name": record.name,
        }
        export_float(deployed, draft / NETWORK, metadata)

    @cached_property
    def _traced_at_size(self) -> ExportedProgram | None:
        """The network traced for the only size of the file, or None if it takes any."""
        return export_network(self.calibrator.inputs.loaded.module, self.input_size) if self.input_size else None

    def _writer(self) -> RunWriter:
        inputs, clock, progress = self.calibrator.inputs, self.calibrator.clock, self.calibrator.progress
        return RunWriter(inputs.bound, inputs.loaded.record, self.input_size, clock, progress)


def _decibels(value: float | None) -> float | None:
    return None if value is None else round(value, 2)
