"""How the values of a site are spread, and where its bounds are."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from srptq_plugin.analysis.distribution import Distribution, Ends, Step
from srptq_plugin.plotting.canvas import BLUE, GREEN, INK, ORANGE, SMALL, TEXT, TITLE, bare, canvas

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
"""Colors, strokes and widths: tuned bounds are hardly off the grid's, which stand on them."""
ALIKE = 1e-6
"""Ends that are closer, as a share of the range, are drawn as one."""
MARGIN = 0.03
MINUS = "\N{MINUS SIGN}"


@dataclass(frozen=True)
class Histogram:
    """A site's values and its bounds; `names` say what observed, what tuned, and whose grid it is."""

    found: Distribution
    names: Mapping[Step, str] = field(default_factory=dict[Step, str])

    @property
    def lines(self) -> list[tuple[Sequence[Step], Ends]]:
        """The bounds that differ, and the steps that have them.

        >>> bounds = {"raw": (-1.0, 4.0), "observed": (-1.0, 2.0), "tuned": (-1.0, 2.0)}
        >>> Histogram(Distribution("a", "activation", 4, 1, [], [-1.0, 4.0], [9], bounds)).lines
        [(['raw'], (-1.0, 4.0)), (['observed', 'tuned'], (-1.0, 2.0))]
        """
        lines: list[tuple[list[Step], Ends]] = []
        for step, ends in self.found.bounds.items():
            steps = next((steps for steps, others in lines if self._alike(ends, others)), None)
            if steps is None:
                lines.append(([step], ends))
            else:
                steps.append(step)
        return list(lines)

    def _alike(self, ends: Ends, others: Ends) -> bool:
        low, high = self.found.bounds["raw"]
        return all(abs(end - other) <= ALIKE * (high - low) for end, other in zip(ends, others, strict=True))

    def record(self) -> dict[str, Any]:
        """The numbers drawn, as JSON has them."""
        return {**self.found.record(), "names": dict(self.names)}

    def drawn(self) -> "Figure":
        """The picture."""
        figure = canvas(*SIZE)
        axes = figure.subplots()
        axes.stairs(self.found.counts, self.found.edges, fill=True, color=BARS)
        for steps, ends in self.lines:
            color, style, width = STYLES[steps[-1]]
            axes.axvline(ends[0], color=color, linestyle=style, linewidth=width, label=self._said(steps, ends))
            axes.axvline(ends[1], color=color, linestyle=style, linewidth=width)
        self._labeled(axes)
        self._explained(figure)
        return figure

    def _said(self, steps: Sequence[Step], ends: Ends) -> str:
        names = " = ".join(self.names.get(step, step) for step in steps)
        return f"{names}: " + f"{ends[0]:.4g} to {ends[1]:.4g}".replace("-", MINUS)

    def _labeled(self, axes: "Axes") -> None:
        bare(axes)
        axes.set_yscale("log")
        axes.set_ylim(bottom=0.7)
        axes.set_xlim(*self._span())
        axes.set_xlabel("value in the float network", fontsize=TEXT)
        axes.set_ylabel("how often", fontsize=TEXT)
        axes.set_title(self.found.site, fontsize=TITLE, loc="left", parse_math=False)

    def _explained(self, figure: "Figure") -> None:
        found = self.found
        outermost = f", the outermost of {found.channels} channels" if found.channels > 1 else ""
        title = f"bounds of this {found.role}, {found.bits} bits{outermost}"
        style = {"frameon": False, "alignment": "left", "fontsize": SMALL, "title_fontsize": SMALL}
        figure.legend(loc="outside lower left", title=title, **style)

    def _span(self) -> Ends:
        """The range of values, widened for bounds beyond it."""
        low, high = (
            pick(ends) for pick, ends in zip((min, max), zip(*self.found.bounds.values(), strict=True), strict=True)
        )
        margin = MARGIN * ((high - low) or 1)
        return low - margin, high + margin
