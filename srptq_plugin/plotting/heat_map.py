"""A heat map of the parts of a network: PSNR with one part quantized alone, and with one part left float."""

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
Pair = tuple[float | None, float | None]
"""PSNR with the part quantized alone, and with the part left float."""
COLUMNS = ("alone", "left float")
COLORS, UNKNOWN = "viridis", "#dddddd"
"""A color map that works with color blindness, and the color of a cell without a number."""
ROW, CELL, LETTER, AROUND = 0.24, 1.05, 0.085, 1.3
"""Inches: the height of a row, the width of a cell, the width of a letter, and the margins."""
LEAST = 2.8
"""The least height in inches that leaves room for the color bar."""
LIGHT = 0.5
"""The share of the color map above which cells are light and take dark text."""


@dataclass(frozen=True)
class HeatMap:
    """PSNR of the parts of one kind, in dB against the float network.

    Infinity means an image equal to the float network's, None an unknown value.
    """

    kind: str
    names: Sequence[str]
    psnr: Sequence[Pair]
    whole: float | None
    """The PSNR with the whole network quantized."""
    span: tuple[float, float]
    """The ends of the color map."""

    @classmethod
    def of(cls, analysis: Record, kind: str) -> "HeatMap | None":
        """Read the record that `srptq analyze` wrote. Return None if it has no parts of the kind.

        All kinds of an analysis share one color map, so that their plots are comparable.
        """
        parts = [part for part in analysis["parts"] if part["kind"] == kind]
        if not parts:
            return None
        psnr = [(_decibels(part["alone"]), _decibels(part["left_float"])) for part in parts]
        return cls(kind, [part["name"] for part in parts], psnr, _decibels(analysis["quantized"]), _span(analysis))

    def record(self) -> dict[str, Any]:
        """Return the plotted numbers for JSON."""
        pairs = zip(self.names, self.psnr, strict=True)
        rows = [{"name": name, "alone": _to_json(alone), "left_float": _to_json(left)} for name, (alone, left) in pairs]
        return {"kind": self.kind, "quantized": self.whole, "span": list(self.span), "rows": rows}

    def drawn(self) -> "Figure":
        """Draw the figure, with a row for each part in the order of the network."""
        names = max(map(len, self.names)) * LETTER
        figure = canvas(len(COLUMNS) * CELL + names + AROUND, max((len(self.names) + 2) * ROW, LEAST))
        axes = figure.subplots()
        mesh = self._color(axes)
        self._write(axes)
        self._label(axes)
        self._add_color_bar(figure, axes, mesh)
        return figure

    def _color(self, axes: "Axes") -> "QuadMesh":
        low, high = self.span
        # Infinity takes the color of the highest number. NaN is not drawn and shows the background.
        values = [[math.nan if value is None else min(value, high) for value in pair] for pair in self.psnr]
        # Cells are centered at whole numbers, where the ticks and the text are.
        edges = [[n - 0.5 for n in range(count + 1)] for count in (len(COLUMNS), len(values))]
        axes.set_facecolor(UNKNOWN)
        return axes.pcolormesh(*edges, values, cmap=COLORS, vmin=low, vmax=high, edgecolors="white", linewidth=1)

    def _write(self, axes: "Axes") -> None:
        for row, pair in enumerate(self.psnr):
            for column, value in enumerate(pair):
                ink = INK if value is None or self._share(value) > LIGHT else "white"
                axes.text(column, row, _to_text(value), color=ink, ha="center", va="center", fontsize=SMALL)

    def _share(self, value: float) -> float:
        """Return the position of a value in the color map, in [0, 1]."""
        low, high = self.span
        return (value - low) / (high - low)

    def _label(self, axes: "Axes") -> None:
        axes.invert_yaxis()
        axes.set_yticks(range(len(self.names)), self.names, fontsize=SMALL, parse_math=False)
        axes.set_xticks(range(len(COLUMNS)), COLUMNS, fontsize=TEXT)
        axes.tick_params(length=0, labeltop=True, labelbottom=False)
        axes.spines[:].set_visible(False)
        axes.set_xlabel(f"all of it quantized: {_to_text(self.whole)}", fontsize=SMALL)

    def _add_color_bar(self, figure: "Figure", axes: "Axes", mesh: "QuadMesh") -> None:
        bar = figure.colorbar(
            mesh, ax=axes, aspect=25, shrink=min(1, 2 * LEAST / figure.get_figheight()), anchor=(0, 1)
        )
        bar.set_label("PSNR against the float network, dB", fontsize=TEXT)
        bar.ax.tick_params(labelsize=SMALL)
        bar.outline.set_visible(False)


def _decibels(quality: Record) -> float | None:
    return math.inf if quality["noise"] == 0 else quality["psnr"]


def _span(analysis: Record) -> tuple[float, float]:
    """Return the least and the greatest finite PSNR of an analysis."""
    qualities = [analysis["quantized"], *(part[way] for part in analysis["parts"] for way in ("alone", "left_float"))]
    known = [quality["psnr"] for quality in qualities if quality["psnr"] is not None]
    low, high = (min(known), max(known)) if known else (0.0, 0.0)
    return low, high if high > low else low + 1


def _to_json(value: float | None) -> float | str:
    return _to_text(value) if value is None or math.isinf(value) else value


def _to_text(value: float | None) -> str:
    if value is None:
        return "unknown"
    return "as float" if math.isinf(value) else f"{value:.2f}"
