"""What every picture shares: a figure without a display or a global state, sizes of letters, whole files."""

from pathlib import Path
from typing import TYPE_CHECKING

from srptq_plugin.errors import MissingExtraError
from srptq_plugin.utils.atomic_file import atomic_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TITLE, TEXT, SMALL = 11, 10, 9
"""Sizes of letters in points."""
DOTS = 200
"""An inch."""
MOST_DOTS = 60_000
"""A side; matplotlib draws no more than 65,535."""
INK, FAINT = "#222222", "#bbbbbb"
BLUE, ORANGE, GREEN, PURPLE = "#0072b2", "#e69f00", "#009e73", "#cc79a7"
"""Okabe and Ito's, which the color-blind tell apart."""


def canvas(width: float, height: float) -> "Figure":
    """A figure of so many inches, whose parts make room for each other."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 - an extra
        from matplotlib.figure import Figure  # noqa: PLC0415
    except ImportError as error:
        raise MissingExtraError("matplotlib", "plot") from error
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def bare(axes: "Axes") -> None:
    """Only the axes that numbers are read at."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=TEXT)


def saved(figure: "Figure", path: Path) -> Path:
    """Write a PNG file whole; coarser where it would be too large."""
    dots = min(DOTS, MOST_DOTS / max(figure.get_size_inches()))
    with atomic_file(path) as draft:
        figure.savefig(draft, format="png", dpi=dots)
    return path
