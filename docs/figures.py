"""Draw the figures of the explanations, from this package's own arithmetic and from a run of the bundled network.

    python docs/figures.py

It needs the extra `plot`, and a minute for the run at 4 bits.
"""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np

from srptq_plugin import Bounds, IntGrid, Run, project, quantize
from srptq_plugin.analysis.distribution import Distribution, Step, distribution
from srptq_plugin.plotting.canvas import BLUE, GREEN, ORANGE, SMALL, canvas, strip_frame

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FOLDER = Path(__file__).parent / "figures"
GRAY = "#888888"
"""Text that can be read on white and on black."""
RECIPE, OVERRIDES = "paper-w4a4", ["reconstruction.epochs=4"]
TENSOR = "body.15/add"
"""The output of the last block."""
LINES: Mapping[Step, tuple[str, str]] = {"raw": (GRAY, "min-max"), "observed": (BLUE, "DBDC"), "tuned": (ORANGE, "PaC")}
GRIDS = {
    "clip range": None,
    "float zero point": IntGrid(3, float_zero_point=True),
    "integer zero point": IntGrid(3),
    "symmetric, signed": IntGrid(3, signed=True, symmetric=True, narrow_range=True),
}
"""Grids of 3 bits, whose levels can be counted."""
RANGE = (-0.55, 1.7)
LARGEST, LIMIT = 255, 2**15 - 1
"""The largest activation, and the largest integer of 16 bits."""


def main() -> None:
    """Draw all figures."""
    mpl.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "srptq", "text.color": GRAY, "axes.edgecolor": GRAY}
    mpl.rcParams |= {"axes.labelcolor": GRAY, "xtick.color": GRAY, "ytick.color": GRAY}
    FOLDER.mkdir(exist_ok=True)
    _save(levels(), "projection")
    _save(pair_sums(), "saturation")
    with tempfile.TemporaryDirectory() as folder:
        run = quantize(RECIPE, out=folder, overrides=OVERRIDES)
        _save(clipped(distribution(run, TENSOR)), "dbdc")
        _save(tuned(run), "pac")


def levels() -> "Figure":
    """Draw the levels that grids of 3 bits have for one clip range."""
    figure, axes = _axes(2.0)
    for row, (label, grid) in enumerate(GRIDS.items()):
        ends = Bounds.of(*RANGE)
        if grid is None:
            axes.plot(RANGE, (row, row), color=ORANGE, linewidth=4)
            continue
        qparams = project(ends, grid)
        values = (np.arange(grid.qmin, grid.qmax + 1) - float(qparams.zero_point)) * float(qparams.scale)
        axes.plot(values, np.full_like(values, row), "|", color=BLUE, markersize=16, markeredgewidth=2, label=label)
    axes.axvline(0, color=GRAY, linewidth=0.5)
    axes.set_yticks(range(len(GRIDS)), list(GRIDS))
    axes.set_ylim(len(GRIDS) - 0.5, -0.5)
    axes.set_xlabel("value")
    return figure


def pair_sums() -> "Figure":
    """Draw the sum of two products, exact and in 16 bits that saturate."""
    figure, axes = _axes(2.6)
    weights = np.arange(0, 2 * 127 + 1)
    axes.plot(weights, LARGEST * weights, color=GRAY, linestyle=":", label="exact, as with VNNI")
    axes.plot(weights, np.minimum(LARGEST * weights, LIMIT), color=ORANGE, label="in 16 bits, without VNNI")
    axes.axvspan(0, LIMIT // LARGEST, color=GREEN, alpha=0.15, label="safe weights")
    axes.set_xlabel("sum of two neighboring weights")
    axes.set_ylabel("sum of products,\nactivations of 255")
    axes.legend(frameon=False, fontsize=SMALL)
    return figure


def clipped(values: Distribution) -> "Figure":
    """Draw the values of a tensor, and its bounds by each method."""
    figure, axes = _axes(2.8)
    edges = np.asarray(values.edges)
    axes.stairs(np.maximum(values.counts, 0.5), edges, fill=True, color=GRAY, alpha=0.4, baseline=0.5)
    axes.set_yscale("log")
    for step, (color, label) in LINES.items():
        for n, end in enumerate(values.bounds[step]):
            axes.axvline(end, color=color, linewidth=2, label=None if n else label)
    axes.set_xlabel(f"value of {values.site}")
    axes.set_ylabel("values")
    axes.legend(frameon=False, fontsize=SMALL)
    return figure


def tuned(run: Run) -> "Figure":
    """Draw by how much PaC changed the range of each activation."""
    figure, axes = _axes(2.6)
    sites = [site for site in run.summary["sites"] if site["role"] == "activation" and site.get("tuned")]
    shares = [_width(site["tuned"]) / _width(site["observed"]) for site in sites]
    axes.axhline(1, color=BLUE, label="DBDC")
    axes.plot(shares, "o", color=ORANGE, markersize=4, label="PaC")
    axes.set_xlabel("activations, from the image to the last convolution")
    axes.set_ylabel("range, relative to DBDC")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize=SMALL)
    return figure


def _width(ends: Sequence[float]) -> float:
    lower, upper = ends
    return upper - lower


def _axes(height: float) -> "tuple[Figure, Axes]":
    figure = canvas(6.4, height)
    axes = figure.subplots()
    strip_frame(axes)
    return figure, axes


def _save(figure: "Figure", name: str) -> None:
    figure.savefig(FOLDER / f"{name}.svg", format="svg", transparent=True, metadata={"Date": None})


if __name__ == "__main__":
    main()
