"""The command `plot`, which draws an analysis or a site as PNG files."""

import json
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from srptq_plugin.analysis import ANALYSIS, BUDGET, KINDS
from srptq_plugin.cli.console import Facts
from srptq_plugin.cli.result import Answer
from srptq_plugin.errors import LONGEST, ArgumentError, SrptqError, first_line, short
from srptq_plugin.utils.progress import Progress

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from srptq_plugin.analysis.distribution import Step
    from srptq_plugin.runs.run import Run

OF_A_SITE = ("images", "scale")
"""Options that only `--site` uses."""


class Picture(Protocol):
    """Numbers that can be drawn."""

    def drawn(self) -> "Figure":
        """Draw the picture."""
        ...

    def record(self) -> Mapping[str, Any]:
        """Return the numbers drawn, for JSON."""
        ...


def plot(args: Namespace, progress: Progress) -> Answer:
    """Draw an analysis, or a site of a run."""
    from srptq_plugin.plotting.canvas import canvas, saved  # noqa: PLC0415 - `srptq --help` answers without it

    canvas(1, 1)  # fails here if matplotlib is missing, before anything is computed
    folder = _folder(args)
    pictures = _read_pictures(args) if args.site is None else _draw_site(args, progress)
    figures = {name: _draw(picture, args.subject) for name, picture in pictures.items()}
    folder.mkdir(parents=True, exist_ok=True)
    files = {name: saved(figure, folder / f"{name}.png") for name, figure in figures.items()}
    records = [{"file": str(files[name]), **picture.record()} for name, picture in pictures.items()]
    return Answer({"pictures": records}, [Facts([("file", str(file)) for file in files.values()])])


def _draw(picture: Picture, subject: Path) -> "Figure":
    """Draw and render a picture, so that a failure leaves no file behind."""
    try:
        figure = picture.drawn()
        figure.draw_without_rendering()
    except Exception as error:
        raise SrptqError(
            f"{subject}: numbers that cannot be drawn ({first_line(error)}); run `srptq analyze` again"
        ) from error
    return figure


def _folder(args: Namespace) -> Path:
    if args.out and args.out.is_file():
        raise ArgumentError("out", "is a file; give a folder", args.out)
    return args.out or (args.subject if args.subject.is_dir() else args.subject.parent)


def _read_pictures(args: Namespace) -> dict[str, Picture]:
    """Return the pictures of all files of the subject, by name."""
    options = [f"--{name}" for name in OF_A_SITE if getattr(args, name)]
    if options:
        raise SrptqError(f"{', '.join(options)}: only the values of a site need images; give --site as well")
    pictures = {name: picture for path in _files(args.subject) for name, picture in _pictures(path).items()}
    if not pictures:
        raise SrptqError(f"{args.subject}: no part was measured there; `srptq analyze` with another --by has some")
    return pictures


def _files(subject: Path) -> list[Path]:
    if not subject.is_dir():
        return [subject]
    files = [subject / name for name in (ANALYSIS, BUDGET) if (subject / name).is_file()]
    if not files:
        raise SrptqError(f"{subject}: no {ANALYSIS} and no {BUDGET}; `srptq analyze {subject}` makes one")
    return files


def _pictures(path: Path) -> dict[str, Picture]:
    from srptq_plugin.plotting.curve import Curve  # noqa: PLC0415
    from srptq_plugin.plotting.heat_map import HeatMap  # noqa: PLC0415

    record = _read(path)
    try:
        if "curve" in record:
            return {f"{path.stem}-curve": Curve.of(record)}
        maps = {f"{path.stem}-{kind}s": HeatMap.of(record, kind) for kind in KINDS}
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise SrptqError(f"{path}: damaged ({short(repr(error), LONGEST)}); run `srptq analyze` again") from error
    return {name: heat_map for name, heat_map in maps.items() if heat_map is not None}


def _read(path: Path) -> Mapping[str, Any]:
    try:
        record = json.loads(path.read_text())
    except FileNotFoundError:
        raise SrptqError(f"{path}: no such file; give a file that `srptq analyze` wrote, or a run folder") from None
    except (ValueError, RecursionError) as error:
        raise SrptqError(f"{path}: not JSON ({first_line(error)}); run `srptq analyze` again") from error
    if not isinstance(record, dict) or not record.keys() & {"parts", "curve"}:
        raise SrptqError(f"{path}: not a file that `srptq analyze` wrote; give one, or a run folder")
    return record


def _draw_site(args: Namespace, progress: Progress) -> dict[str, Picture]:
    from srptq_plugin.analysis.distribution import distribution  # noqa: PLC0415
    from srptq_plugin.plotting.histogram_plot import Histogram  # noqa: PLC0415
    from srptq_plugin.runs.run import Run  # noqa: PLC0415

    if args.subject.is_file():
        raise SrptqError(f"--site: {args.subject} is a file; give the run folder that has the site")
    run = Run.open(args.subject)
    values = distribution(run, args.site, images=args.images, scale=args.scale, device=args.device, progress=progress)
    name = "".join(letter if letter.isalnum() or letter in ".-_" else "-" for letter in args.site)
    return {f"site-{name}": Histogram(values, _step_names(run, values.role))}


def _step_names(run: "Run", role: str) -> "dict[Step, str]":
    """Return the legend of the steps from values to integers."""
    settings = run.recipe.weights if role == "weight" else run.recipe.activations
    names: dict[Step, str] = {"raw": "minimum and maximum", "observed": f"observed by {settings.observer}"}
    if run.recipe.reconstruction is not None:
        names["tuned"] = f"tuned by {run.recipe.reconstruction.name}"
    return {**names, "projected": f"on {run.recipe.target}'s grid"}
