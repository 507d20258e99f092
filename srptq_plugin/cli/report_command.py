"""The command `report`, which writes a page about runs."""

from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from srptq_plugin.cli.console import Cell, Facts
from srptq_plugin.cli.result import Answer
from srptq_plugin.utils.progress import Progress

if TYPE_CHECKING:
    from srptq_plugin.report.run_report import RunReport

FILE = "report.html"


def report(args: Namespace, progress: Progress) -> Answer:
    """Measure runs, and write a page about them."""
    from srptq_plugin.report.page import write_page  # noqa: PLC0415 - `srptq --help` answers without it
    from srptq_plugin.report.report import measure  # noqa: PLC0415
    from srptq_plugin.runs.run import Run  # noqa: PLC0415
    from srptq_plugin.utils.atomic_file import check_file  # noqa: PLC0415

    runs = [Run.open(folder) for folder in args.runs]
    out: Path = args.out or (runs[0].folder / FILE if len(runs) == 1 else Path(FILE))
    check_file("out", out)
    measured = measure(runs, data=args.data, crops=args.crops, device=args.device, progress=progress)
    write_page(measured, out)
    facts = [fact for run in measured.runs for fact in _facts(run)]
    return Answer({"file": str(out), **measured.record()}, [Facts([*facts, ("file", str(out))])])


def _facts(run: "RunReport") -> Iterator[tuple[str, Cell]]:
    yield "run", run.name
    for name, row in run.means.items():
        yield name, f"{row['psnr']:.2f} dB, SSIM {row['ssim']:.4f}{_reference(run)}"
    if run.inside:
        first = run.inside.first
        yield "parting", f"first at {first.name}" if first else "nowhere: all sites hold the same integers"
    else:
        yield "parting", f"not compared: {run.why_not}"


def _reference(run: "RunReport") -> str:
    return "" if "float" in run.means else " against the float network"
