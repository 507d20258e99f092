"""PSNR against cost: mixtures of bits within a ladder of budgets, beside one number of bits everywhere."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from srptq_plugin.plotting.canvas import BLUE, FAINT, INK, ORANGE, SMALL, TEXT, bare, canvas

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Record = Mapping[str, Any]
Point = tuple[float, float]
SIZE = (5.2, 3.6)
COSTS = {"bops": "BitOPs", "size": "size of the weights"}


@dataclass(frozen=True)
class Curve:
    """Points of cost, as a share of 8 bits everywhere, and of PSNR against the float network in dB.

    `uniform` is by number of bits; `chosen` is the mixture whose recipe was written. What is not finite is left out.
    """

    measure: str
    mixed: Sequence[Point]
    uniform: Mapping[int, Point]
    chosen: Point | None

    @classmethod
    def of(cls, found: Record) -> "Curve":
        """Of what `srptq analyze --budget` wrote."""
        measure = found["curve"]["measure"]
        mixed = [_point(each, measure) for each in found["curve"]["mixtures"]]
        uniform = {each["width"]: _point(each, measure) for each in found["uniform"]}
        known = {bits: point for bits, point in uniform.items() if point is not None}
        return cls(measure, [each for each in mixed if each is not None], known, _point(found["mixed"], measure))

    def record(self) -> dict[str, Any]:
        """The numbers drawn, as JSON has them."""
        return dict(vars(self))

    def drawn(self) -> "Figure":
        """The picture."""
        figure = canvas(*SIZE)
        axes = figure.subplots()
        chosen = [] if self.chosen is None else [self.chosen]
        axes.plot(*_columns(sorted([*self.mixed, *chosen])), "o-", color=BLUE, markersize=4, label="mixed bits")
        axes.plot(*_columns(self.uniform.values()), "s", color=ORANGE, label="the same bits everywhere")
        for bits, point in self.uniform.items():
            axes.annotate(f"{bits} bits", point, (7, -10), textcoords="offset points", fontsize=SMALL, color=INK)
        axes.plot(*_columns(chosen), "o", color=INK, markersize=10, fillstyle="none", label="the recipe written")
        self._labeled(axes)
        return figure

    def _labeled(self, axes: "Axes") -> None:
        bare(axes)
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
