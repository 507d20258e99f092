"""The command `plot`: what is drawn, where it goes, and the answer that names it."""

import json
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from srptq_plugin.analysis import KINDS
from srptq_plugin.cli.analyze_command import ANALYSIS, BUDGET
from srptq_plugin.cli.console import Facts
from srptq_plugin.cli.result import Answer
from srptq_plugin.errors import LONGEST, SrptqError, first_line, short
from srptq_plugin.utils.progress import Progress

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from srptq_plugin.analysis.distribution import Step
    from srptq_plugin.runs.run import Run

OF_A_SITE = ("images", "scale")


class Picture(Protocol):
    """What can be drawn."""

    def drawn(self) -> "Figure":
        """The picture."""
        ...

    def record(self) -> Mapping[str, Any]:
        """The numbers drawn."""
        ...


def plot(asked: Namespace, progress: Progress) -> Answer:
    """Draw an analysis, or a site of a run."""
    from srptq_plugin.plotting.canvas import canvas, saved  # noqa: PLC0415 - `srptq --help` answers without it

    canvas(1, 1)
    folder = _folder(asked)
    found = _analysis(asked) if asked.site is None else _site(asked, progress)
    drawn = {name: _drawn(picture, asked.subject) for name, picture in found.items()}
    folder.mkdir(parents=True, exist_ok=True)
    files = {name: saved(figure, folder / f"{name}.png") for name, figure in drawn.items()}
    pictures = [{"file": str(files[name]), **picture.record()} for name, picture in found.items()]
    return Answer({"pictures": pictures}, [Facts([("file", str(each)) for each in files.values()])])


def _drawn(picture: Picture, subject: Path) -> "Figure":
    """Before anything is written."""
    try:
        figure = picture.drawn()
        figure.draw_without_rendering()
    except Exception as error:
        raise SrptqError(
            f"{subject}: numbers that cannot be drawn ({first_line(error)}); run `srptq analyze` again"
        ) from error
    return figure


def _folder(asked: Namespace) -> Path:
    if asked.out and asked.out.is_file():
        raise SrptqError(f"--out {asked.out}: is a file; give a folder")
    return asked.out or (asked.subject if asked.subject.is_dir() else asked.subject.parent)


def _analysis(asked: Namespace) -> dict[str, Picture]:
    given = [f"--{name}" for name in OF_A_SITE if getattr(asked, name)]
    if given:
        raise SrptqError(f"{', '.join(given)}: only the values of a site need images; give --site as well")
    found = {name: picture for path in _files(asked.subject) for name, picture in _pictures(path).items()}
    if not found:
        raise SrptqError(f"{asked.subject}: no part was measured there; `srptq analyze` with another --by has some")
    return found


def _files(subject: Path) -> list[Path]:
    if not subject.is_dir():
        return [subject]
    found = [subject / name for name in (ANALYSIS, BUDGET) if (subject / name).is_file()]
    if not found:
        raise SrptqError(f"{subject}: no {ANALYSIS} and no {BUDGET}; `srptq analyze {subject}` makes one")
    return found


def _read(path: Path) -> Mapping[str, Any]:
    try:
        found = json.loads(path.read_text())
    except FileNotFoundError:
        raise SrptqError(f"{path}: no such file; give what `srptq analyze` wrote, or a run folder") from None
    except (ValueError, RecursionError) as error:
        raise SrptqError(f"{path}: not JSON ({first_line(error)}); run `srptq analyze` again") from error
    if not isinstance(found, dict) or not found.keys() & {"parts", "curve"}:
        raise SrptqError(f"{path}: not what `srptq analyze` wrote; give its file, or a run folder")
    return found


def _pictures(path: Path) -> dict[str, Picture]:
    from srptq_plugin.plotting.curve import Curve  # noqa: PLC0415
    from srptq_plugin.plotting.heat_map import HeatMap  # noqa: PLC0415

    found = _read(path)
    try:
        if "curve" in found:
            return {f"{path.stem}-curve": Curve.of(found)}
        maps = {f"{path.stem}-{kind}s": HeatMap.of(found, kind) for kind in KINDS}
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise SrptqError(f"{path}: damaged ({short(repr(error), LONGEST)}); run `srptq analyze` again") from error
    return {name: each for name, each in maps.items() if each is not None}


def _site(asked: Namespace, progress: Progress) -> dict[str, Picture]:
    from srptq_plugin.analysis.distribution import distribution  # noqa: PLC0415
    from srptq_plugin.plotting.histogram_plot import Histogram  # noqa: PLC0415
    from srptq_plugin.runs.run import Run  # noqa: PLC0415

    if asked.subject.is_file():
        raise SrptqError(f"--site: {asked.subject} is a file; give the run folder that has the site")
    run = Run.open(asked.subject)
    found = distribution(
        run, asked.site, images=asked.images, scale=asked.scale, device=asked.device, progress=progress
    )
    name = "".join(each if each.isalnum() or each in ".-_" else "-" for each in asked.site)
    return {f"site-{name}": Histogram(found, _names(run, found.role))}


def _names(run: "Run", role: str) -> "dict[Step, str]":
    """What a reader is told of the steps."""
    settings = run.recipe.weights if role == "weight" else run.recipe.activations
    names: dict[Step, str] = {"raw": "minimum and maximum", "observed": f"observed by {settings.observer}"}
    if run.recipe.reconstruction is not None:
        names["tuned"] = f"tuned by {run.recipe.reconstruction.name}"
    return {**names, "projected": f"on {run.recipe.target}'s grid"}
