"""A histogram of the values of one site, with its bounds at each step of calibration."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from srptq_plugin.analysis.distribution import Distribution, Ends, Step
from srptq_plugin.plotting.canvas import BLUE, GREEN, INK, ORANGE, SMALL, TEXT, TITLE, canvas, strip_frame

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SIZE = (6.4, 4.2)
BARS = "#b7c4d1"
STYLES: Mapping[Step, tuple[str, Literal["-", "--", ":"], float]] = {
    "raw": (INK, ":", 1.6),
    "observed": (BLUE, "--", 1.6),
    "tuned": (ORANGE, "-", 4.0),
    "projected": (GREEN, "-", 1.4),
}
"""Color, line style and width of each step. Tuned bounds are wide, as projected bounds lie almost on top of them."""
ALIKE = 1e-6
"""Ends closer than this share of the range are drawn as one line."""
MARGIN = 0.03
"""Space left and right of the outermost line, as a share of the range."""
MINUS = "\N{MINUS SIGN}"


@dataclass(frozen=True)
class Histogram:
    """The values and the bounds of one site."""

    distribution: Distribution
    names: Mapping[Step, str] = field(default_factory=dict[Step, str])
    """The legend's name for each step: the observer, the reconstruction, the target's grid."""

    @property
    def lines(self) -> list[tuple[Sequence[Step], Ends]]:
        """The distinct bounds, each with the steps that share them.

        >>> bounds = {"raw": (-1.0, 4.0), "observed": (-1.0, 2.0), "tuned": (-1.0, 2.0)}
        >>> Histogram(Distribution("a", "activation", 4, 1, [], [-1.0, 4.0], [9], bounds)).lines
        [(['raw'], (-1.0, 4.0)), (['observed', 'tuned'], (-1.0, 2.0))]
        """
        lines: list[tuple[list[Step], Ends]] = []
        for step, ends in self.distribution.bounds.items():
            steps = next((steps for steps, others in lines if self._alike(ends, others)), None)
            if steps is None:
                lines.append(([step], ends))
            else:
                steps.append(step)
        return list(lines)

    def _alike(self, ends: Ends, others: Ends) -> bool:
        low, high = self.distribution.bounds["raw"]
        return all(abs(end - other) <= ALIKE * (high - low) for end, other in zip(ends, others, strict=True))

    def record(self) -> dict[str, Any]:
        """Return the plotted numbers for JSON."""
        return {**self.distribution.record(), "names": dict(self.names)}

    def drawn(self) -> "Figure":
        """Draw the figure."""
        figure = canvas(*SIZE)
        axes = figure.subplots()
        axes.stairs(self.distribution.counts, self.distribution.edges, fill=True, color=BARS)
        for steps, ends in self.lines:
            color, style, width = STYLES[steps[-1]]
            axes.axvline(ends[0], color=color, linestyle=style, linewidth=width, label=self._entry(steps, ends))
            axes.axvline(ends[1], color=color, linestyle=style, linewidth=width)
        self._label(axes)
        self._add_legend(figure)
        return figure

    def _entry(self, steps: Sequence[Step], ends: Ends) -> str:
        names = " = ".join(self.names.get(step, step) for step in steps)
        return f"{names}: " + f"{ends[0]:.4g} to {ends[1]:.4g}".replace("-", MINUS)

    def _label(self, axes: "Axes") -> None:
        strip_frame(axes)
        axes.set_yscale("log")
        axes.set_ylim(bottom=0.7)  # below 1, so that a bin with a single value is visible
        axes.set_xlim(*self._span())
        axes.set_xlabel("value in the float network", fontsize=TEXT)
        axes.set_ylabel("how often", fontsize=TEXT)
        axes.set_title(self.distribution.site, fontsize=TITLE, loc="left", parse_math=False)

    def _add_legend(self, figure: "Figure") -> None:
        site = self.distribution
        outermost = f", the outermost of {site.channels} channels" if site.channels > 1 else ""
        title = f"bounds of this {site.role}, {site.bits} bits{outermost}"
        style = {"frameon": False, "alignment": "left", "fontsize": SMALL, "title_fontsize": SMALL}
        figure.legend(loc="outside lower left", title=title, **style)

    def _span(self) -> Ends:
        """Return the range of the values, widened for bounds beyond it."""
        low = min(ends[0] for ends in self.distribution.bounds.values())
        high = max(ends[1] for ends in self.distribution.bounds.values())
        margin = MARGIN * ((high - low) or 1)
        return low - margin, high + margin
