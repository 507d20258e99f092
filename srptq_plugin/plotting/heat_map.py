"""What each part costs the image: a row a part, in the order of the network, alone and left float."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from srptq_plugin.plotting.canvas import INK, SMALL, TEXT, canvas

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import QuadMesh
    from matplotlib.figure import Figure

Record = Mapping[str, Any]
Both = tuple[float | None, float | None]
COLUMNS = ("alone", "left float")
COLORS, UNKNOWN = "viridis", "#dddddd"
"""From few to many dB, for the color-blind as well; and where there is no number."""
ROW, CELL, LETTER, AROUND = 0.24, 1.05, 0.085, 1.3
"""Inches: the height of a row, the width of a number, of a letter of a name, and what is around."""
LEAST = 2.8
"""Inches of height, below which the scale beside has no room."""
LIGHT = 0.5
"""The share of the colors from which letters on them are dark."""


@dataclass(frozen=True)
class HeatMap:
    """Parts of a kind, and PSNR against the float network in dB: infinite where the image is float's, none if unknown.

    `whole`: that of the whole network quantized. `span`: what the colors go from and to.
    """

    kind: str
    names: Sequence[str]
    psnr: Sequence[Both]
    whole: float | None
    span: tuple[float, float]

    @classmethod
    def of(cls, found: Record, kind: str) -> "HeatMap | None":
        """Of what `srptq analyze` wrote, where it has such parts; all kinds have the same colors."""
        parts = [part for part in found["parts"] if part["kind"] == kind]
        if not parts:
            return None
        psnr = [(_decibels(part["alone"]), _decibels(part["left_float"])) for part in parts]
        return cls(kind, [part["name"] for part in parts], psnr, _decibels(found["quantized"]), _span(found))

    def record(self) -> dict[str, Any]:
        """The numbers drawn, as JSON has them."""
        pairs = zip(self.names, self.psnr, strict=True)
        rows = [{"name": name, "alone": _kept(alone), "left_float": _kept(left)} for name, (alone, left) in pairs]
        return {"kind": self.kind, "quantized": self.whole, "span": list(self.span), "rows": rows}

    def drawn(self) -> "Figure":
        """The picture."""
        names = max(map(len, self.names)) * LETTER
        figure = canvas(len(COLUMNS) * CELL + names + AROUND, max((len(self.names) + 2) * ROW, LEAST))
        axes = figure.subplots()
        mesh = self._colored(axes)
        self._written(axes)
        self._labeled(axes)
        self._scale(figure, axes, mesh)
        return figure

    def _colored(self, axes: "Axes") -> "QuadMesh":
        low, high = self.span
        values = [[math.nan if each is None else min(each, high) for each in row] for row in self.psnr]
        edges = [[n - 0.5 for n in range(count + 1)] for count in (len(COLUMNS), len(values))]
        axes.set_facecolor(UNKNOWN)
        return axes.pcolormesh(*edges, values, cmap=COLORS, vmin=low, vmax=high, edgecolors="white", linewidth=1)

    def _written(self, axes: "Axes") -> None:
        for row, both in enumerate(self.psnr):
            for column, value in enumerate(both):
                ink = INK if value is None or self._share(value) > LIGHT else "white"
                axes.text(column, row, _said(value), color=ink, ha="center", va="center", fontsize=SMALL)

    def _share(self, value: float) -> float:
        """Where the color of a value is among all."""
        low, high = self.span
        return (value - low) / (high - low)

    def _labeled(self, axes: "Axes") -> None:
        axes.invert_yaxis()
        axes.set_yticks(range(len(self.names)), self.names, fontsize=SMALL, parse_math=False)
        axes.set_xticks(range(len(COLUMNS)), COLUMNS, fontsize=TEXT)
        axes.tick_params(length=0, labeltop=True, labelbottom=False)
        axes.spines[:].set_visible(False)
        axes.set_xlabel(f"all of it quantized: {_said(self.whole)}", fontsize=SMALL)

    def _scale(self, figure: "Figure", axes: "Axes", mesh: "QuadMesh") -> None:
        bar = figure.colorbar(
            mesh, ax=axes, aspect=25, shrink=min(1, 2 * LEAST / figure.get_figheight()), anchor=(0, 1)
        )
        bar.set_label("PSNR against the float network, dB", fontsize=TEXT)
        bar.ax.tick_params(labelsize=SMALL)
        bar.outline.set_visible(False)


def _decibels(quality: Record) -> float | None:
    return math.inf if quality["noise"] == 0 else quality["psnr"]


def _span(found: Record) -> tuple[float, float]:
    """From the least to the most of all that is known."""
    ways = [found["quantized"], *(part[way] for part in found["parts"] for way in ("alone", "left_float"))]
    known = [way["psnr"] for way in ways if way["psnr"] is not None]
    low, high = (min(known), max(known)) if known else (0.0, 0.0)
    return low, high if high > low else low + 1


def _kept(value: float | None) -> float | str:
    return _said(value) if value is None or math.isinf(value) else value


def _said(value: float | None) -> str:
    if value is None:
        return "unknown"
    return "as float" if math.isinf(value) else f"{value:.2f}"
