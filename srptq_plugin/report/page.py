"""The page of a report: the template with the figures, the style sheet and the script in it."""

from pathlib import Path

import jinja2

from srptq_plugin import __version__
from srptq_plugin.report import charts, tables
from srptq_plugin.report.pictures import Gallery
from srptq_plugin.report.report import Report
from srptq_plugin.report.worst_sites import describe_ends
from srptq_plugin.utils.atomic_file import atomic_file

FOLDER = Path(__file__).parent
TEMPLATE = "report.html.j2"


def write_page(report: Report, path: Path) -> None:
    """Write a report as one file that needs no other. If that fails, leave an earlier file as it was."""
    with atomic_file(path) as draft:
        draft.write_text(render(report), encoding="utf-8")


def render(report: Report) -> str:
    """Return the page as HTML."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(TEMPLATE).render(
        report=report,
        title=" and ".join(run.name for run in report.runs),
        gallery=Gallery.of(report),
        tables=tables,
        scores=tables.ScoreTable.of(report),
        describe_ends=describe_ends,
        charts=charts,
        version=__version__,
    )
