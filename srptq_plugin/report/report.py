"""Reports on one run or on several: measured, and written as one HTML file."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from srptq_plugin.errors import ArgumentError, SrptqError
from srptq_plugin.report.crops import Crop, CropKeeper, CropPicker
from srptq_plugin.report.run_report import Material, RunReport, report_run
from srptq_plugin.runs.run import Run
from srptq_plugin.utils.progress import Progress, quiet

CROPS = 4
MOST_IMAGES = 10
"""How many calibration images are compared with the float network's, at most."""


@dataclass(frozen=True)
class Report:
    """The reports on all runs, and their crops of the same parts of images.

    Attributes:
        data: The name of the folder of originals, or None if figures are against the float network.
        runs: What was measured of each run.
        crops: The crops of each run, in the same order.
    """

    data: str | None
    runs: Sequence[RunReport]
    crops: Sequence[Sequence[Crop]]

    def record(self) -> dict[str, Any]:
        """Return the figures for JSON."""
        chosen = [{"image": crop.image, **vars(crop.window)} for crop in self.crops[0]]
        return {"data": self.data, "runs": [run.record() for run in self.runs], "crops": chosen}


def measure(
    runs: Sequence[Run],
    *,
    data: Path | None = None,
    crops: int = CROPS,
    device: str = "auto",
    progress: Progress = quiet,
) -> Report:
    """Measure all that a report says.

    Args:
        runs: At least one. All networks upscale by the same factor.
        data: A folder of high-resolution images, as `evaluate` takes it. By default the runs are compared with their
            float networks, on the calibration images of the first run.
        crops: How many images to show, from the greatest loss of the first run on.
        device: The device for torch. Runtimes choose their own.
        progress: A callback for progress.
    """
    _check(runs, crops)
    first, names = runs[0], run_names(runs)
    material = Material(data, () if data else first.images()[:MOST_IMAGES])
    picker = CropPicker(crops, first.scale)
    reports = [report_run(names[0], first, material, picker, device=device, progress=progress)]
    kept = [picker.crops]
    for name, run in zip(names[1:], runs[1:], strict=True):
        keeper = CropKeeper(picker.crops)
        reports.append(report_run(name, run, material, keeper, device=device, progress=progress))
        kept.append(keeper.crops)
    return Report(Path(data).name if data else None, reports, kept)


def run_names(runs: Sequence[Run]) -> list[str]:
    """Name runs by their folders, or by their paths if folders have the same name."""
    names = [run.folder.absolute().name for run in runs]
    return names if len(set(names)) == len(names) else [str(run.folder) for run in runs]


def _check(runs: Sequence[Run], crops: int) -> None:
    if not runs:
        raise SrptqError("report: no run; give at least one")
    if crops < 1:
        raise ArgumentError("crops", "should be 1 or more", crops)
    if len({run.folder.resolve() for run in runs}) < len(runs):
        raise ArgumentError("runs", "a run folder was given twice; give each once")
    scales = sorted({run.scale for run in runs})
    if len(scales) > 1:
        raise ArgumentError("runs", f"networks that upscale by {scales} have no common images; report on them apart")
