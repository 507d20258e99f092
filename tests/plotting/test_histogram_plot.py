from itertools import permutations

import pytest

from srptq_plugin.analysis.distribution import Distribution, Ends, Step
from srptq_plugin.plotting.histogram_plot import Histogram

pytest.importorskip("matplotlib")
BOUNDS: dict[Step, Ends] = {"raw": (-2.0, 8.0), "observed": (-1.0, 4.0), "tuned": (-0.9, 4.2), "projected": (-1.0, 4.5)}


def histogram(bounds: dict[Step, Ends], channels: int = 1) -> Histogram:
    distribution = Distribution("body.0/add", "activation", 4, channels, [], [-2.0, 0.0, 8.0], [3, 1000], bounds)
    return Histogram(distribution, {"tuned": "tuned by pac"})


def test_lines_and_legend_show_the_bounds() -> None:
    figure = histogram(BOUNDS).drawn()
    (axes,) = figure.axes
    lines = [float(line.get_xdata()[0]) for line in axes.lines]  # pyright: ignore[reportIndexIssue, reportArgumentType]
    assert lines == [end for ends in BOUNDS.values() for end in ends]
    low, high = axes.get_xlim()
    assert low < min(lines) < max(lines) < high
    legend = [text.get_text().replace("\N{MINUS SIGN}", "-") for text in figure.legends[0].get_texts()]
    assert legend == ["raw: -2 to 8", "observed: -1 to 4", "tuned by pac: -0.9 to 4.2", "projected: -1 to 4.5"]


def test_counts_are_drawn_logarithmically() -> None:
    (axes,) = histogram(BOUNDS).drawn().axes
    (bars,) = axes.patches
    assert axes.get_yscale() == "log"
    assert [list(part) for part in bars.get_data()[:2]] == [[3, 1000], [-2, 0, 8]]  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("same", list(permutations(BOUNDS, 2)))
def test_equal_bounds_are_drawn_as_one_line(same: tuple[Step, Step]) -> None:
    bounds: dict[Step, Ends] = {**BOUNDS, same[1]: BOUNDS[same[0]]}
    plot = histogram(bounds)
    steps = [steps for steps, _ in plot.lines]
    assert len(steps) == 3
    assert set(same) in map(set, steps)
    assert len(plot.drawn().axes[0].lines) == 6


def test_grids_wider_than_the_values_are_visible() -> None:
    (axes,) = histogram({"raw": (0.0, 1.0), "projected": (-9.0, 9.0)}).drawn().axes
    low, high = axes.get_xlim()
    assert low < -9
    assert high > 9


def test_a_constant_is_drawn() -> None:
    wide: dict[Step, Ends] = {"raw": (0.0, 0.0), "projected": (0.0, 15.0)}
    constant = Distribution("a", "activation", 4, 1, [], [0.0, 0.5], [7], wide)
    low, high = Histogram(constant).drawn().axes[0].get_xlim()
    assert low < 0
    assert high > 15
    alone = Distribution("a", "activation", 4, 1, [], [0.0, 0.5], [7], {"raw": (0.0, 0.0)})
    Histogram(alone).drawn().draw_without_rendering()


@pytest.mark.parametrize(("channels", "title"), [(1, "4 bits"), (32, "4 bits, the outermost of 32 channels")])
def test_legend_names_the_outermost_channel(channels: int, title: str) -> None:
    legend = histogram(BOUNDS, channels).drawn().legends[0]
    assert legend.get_title().get_text() == f"bounds of this activation, {title}"
