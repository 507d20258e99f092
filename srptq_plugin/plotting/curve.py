"""A plot of PSNR against cost: mixed bits for a ladder of budgets, next to uniform bits."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from srptq_plugin.plotting.canvas import BLUE, FAINT, INK, ORANGE, SMALL, TEXT, canvas, strip_frame

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Record = Mapping[str, Any]
Point = tuple[float, float]
SIZE = (5.2, 3.6)
COSTS = {"bops": "BitOPs", "size": "size of the weights"}


@dataclass(frozen=True)
class Curve:
    """Points of cost, as a share of 8 bits everywhere, and PSNR against the float network in dB.

    Points whose PSNR is not finite are left out.
    """

    measure: str
    """The kind of cost, a key of `COSTS`."""
    mixed: Sequence[Point]
    uniform: Mapping[int, Point]
    """The points with one number of bits everywhere, by that number."""
    chosen: Point | None
    """The mixture whose recipe was written."""

    @classmethod
    def of(cls, analysis: Record) -> "Curve":
        """Read the record that `srptq analyze --budget` wrote."""
        measure = analysis["curve"]["measure"]
        mixed = [_point(mixture, measure) for mixture in analysis["curve"]["mixtures"]]
        uniform = {mixture["width"]: _point(mixture, measure) for mixture in analysis["uniform"]}
        return cls(
            measure,
            [point for point in mixed if point is not None],
            {bits: point for bits, point in uniform.items() if point is not None},
            _point(analysis["mixed"], measure),
        )

    def record(self) -> dict[str, Any]:
        """Return the plotted numbers for JSON."""
        return dict(vars(self))

    def drawn(self) -> "Figure":
        """Draw the figure."""
        figure = canvas(*SIZE)
        axes = figure.subplots()
        chosen = [] if self.chosen is None else [self.chosen]
        axes.plot(*_columns(sorted([*self.mixed, *chosen])), "o-", color=BLUE, markersize=4, label="mixed bits")
        axes.plot(*_columns(self.uniform.values()), "s", color=ORANGE, label="the same bits everywhere")
        for bits, point in self.uniform.items():
            axes.annotate(f"{bits} bits", point, (7, -10), textcoords="offset points", fontsize=SMALL, color=INK)
        axes.plot(*_columns(chosen), "o", color=INK, markersize=10, fillstyle="none", label="the recipe written")
        self._label(axes)
        return figure

    def _label(self, axes: "Axes") -> None:
        strip_frame(axes)
        axes.margins(0.08, 0.1)
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter("{x:g}")
        axes.set_xlabel(f"{COSTS[self.measure]}, as a share of 8 bits everywhere", fontsize=TEXT)
        axes.set_ylabel("PSNR against the float network, dB", fontsize=TEXT)
        axes.grid(color=FAINT, linewidth=0.5, alpha=0.6)
        axes.legend(frameon=False, fontsize=SMALL, loc="lower right")


def _point(mixture: Record, measure: str) -> Point | None:
    return None if mixture["psnr"] is None else (mixture[measure], mixture["psnr"])


def _columns(points: Iterable[Point]) -> tuple[list[float], list[float]]:
    pairs = list(points)
    return [cost for cost, _ in pairs], [psnr for _, psnr in pairs]
