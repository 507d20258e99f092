"""The basics of every plot: a figure without display or global state, font sizes, colors, saving."""

from pathlib import Path
from typing import TYPE_CHECKING

from srptq_plugin.errors import MissingExtraError
from srptq_plugin.utils.atomic_file import atomic_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TITLE, TEXT, SMALL = 11, 10, 9
"""Font sizes in points."""
DOTS = 200
"""Dots per inch."""
MOST_DOTS = 60_000
"""The limit of dots per side. Matplotlib draws no more than 65,535."""
INK, FAINT = "#222222", "#bbbbbb"
BLUE, ORANGE, GREEN, PURPLE = "#0072b2", "#e69f00", "#009e73", "#cc79a7"
"""Okabe and Ito's palette, which readers with color blindness can distinguish."""


def canvas(width: float, height: float) -> "Figure":
    """Create a figure of a size in inches, with a layout that keeps its parts apart."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 - an extra
        from matplotlib.figure import Figure  # noqa: PLC0415
    except ImportError as error:
        raise MissingExtraError("matplotlib", "plot") from error
    # Without pyplot, which would need a display and would hold every figure in a global list.
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def strip_frame(axes: "Axes") -> None:
    """Hide the top and right spines, where no numbers are read."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=TEXT)


def saved(figure: "Figure", path: Path) -> Path:
    """Write a PNG file atomically, at a lower resolution if it would exceed the limit. Return its path."""
    dots = min(DOTS, MOST_DOTS / max(figure.get_size_inches()))
    with atomic_file(path) as draft:
        figure.savefig(draft, format="png", dpi=dots)
    return path
