"""Charts as inline SVG, whose colors are classes of the page's style sheet."""

import math
from collections.abc import Sequence
from html import escape

from srptq_plugin.analysis.distribution import Distribution, Ends
from srptq_plugin.runs.divergence import Divergence

WIDTH, HEIGHT = 640, 190
LEFT, BOTTOM, TOP = 58, 22, 8
"""The margins of the plotting area."""
MINUS = "\N{MINUS SIGN}"
Point = tuple[float, float]


def histogram(distribution: Distribution) -> str:
    """Draw how often values occur, on a logarithmic scale, with the bounds of each step of calibration."""
    low, high = _span([distribution.bounds[step] for step in distribution.bounds])

    def across(value: float) -> float:
        return LEFT + (WIDTH - LEFT) * (value - low) / (high - low)

    decades = math.ceil(math.log10(max(distribution.counts) + 1)) or 1
    outline: list[Point] = [(across(distribution.edges[0]), _up(0))]
    for left, right, count in zip(distribution.edges, distribution.edges[1:], distribution.counts, strict=False):
        height = _up(math.log10(count + 1) / decades)
        outline += [(across(left), height), (across(right), height)]
    outline.append((across(distribution.edges[-1]), _up(0)))
    marks = [
        f'<line class="bound {step}" x1="{across(end):.1f}" x2="{across(end):.1f}" y1="{TOP}" y2="{_up(0):.1f}"/>'
        for step, ends in distribution.bounds.items()
        for end in ends
    ]
    ticks = [
        _label(across(value), HEIGHT - 6, f"{value:.4g}".replace("-", MINUS), "middle")
        for value in _round_values(low, high)
    ]
    scale = [_line_at(_up(n / decades), f"10{_raised(n)}") for n in range(1, decades + 1)]
    return _svg(f"values of {distribution.site}", [*scale, _area(outline, "bars"), *marks, *ticks])


def divergence(inside: Divergence) -> str:
    """Draw the share of values that differ at each site, from the operations before it alone and in all."""
    decades = max(2, math.ceil(math.log10(max((site.values for site in inside.sites), default=1))))
    step = (WIDTH - LEFT) / max(len(inside.sites), 1)

    def share_height(values: int, of: int) -> float:
        # the axis ends at a share of one value of the largest tensor
        return 0.0 if not values else max(0.02, 1 + math.log10(values / of) / decades)

    own, whole = list[str](), list[Point]()
    for number, site in enumerate(inside.sites):
        x, height = LEFT + step * number, share_height(site.own.values, site.values)
        title = (
            f"{site.name}: {site.own.values:,} of {site.values:,} values differ by its own operations, "
            f"{site.whole.values:,} in all"
        )
        own.append(
            f'<rect class="own" x="{x + 0.1 * step:.1f}" width="{0.8 * step:.2f}" y="{_up(height):.1f}" '
            f'height="{_up(0) - _up(height):.1f}"/>'
            f'<rect class="hover" x="{x:.1f}" width="{step:.2f}" y="{TOP}" height="{_up(0) - TOP:.1f}">'
            f"<title>{escape(title)}</title></rect>"
        )
        whole.append((x + step / 2, _up(share_height(site.whole.values, site.values))))
    scale = [_line_at(_up(1 - n / decades), f"{100 / 10**n:.4g} %") for n in range(0, decades, 2)]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in whole)
    ends = [inside.sites[0], inside.sites[-1]] if inside.sites else []
    names = [
        _label(x, HEIGHT - 6, site.name, anchor)
        for x, site, anchor in zip((LEFT, WIDTH), ends, ("start", "end"), strict=False)
    ]
    return _svg("values that differ by site", [*scale, f'<polyline class="whole" points="{line}"/>', *own, *names])


def _span(bounds: Sequence[Ends]) -> Ends:
    low, high = min(ends[0] for ends in bounds), max(ends[1] for ends in bounds)
    margin = 0.02 * ((high - low) or 1)
    return low - margin, high + margin


def _round_values(low: float, high: float, count: int = 5) -> list[float]:
    """Return round numbers between two ends.

    >>> _round_values(-1.3, 2.2)
    [-1.0, 0.0, 1.0, 2.0]
    """
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw)
    return [round(n * step, 12) for n in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _up(share: float) -> float:
    """Return the place of a height in the plotting area."""
    return HEIGHT - BOTTOM - share * (HEIGHT - BOTTOM - TOP)


def _area(points: Sequence[Point], kind: str) -> str:
    return f'<polygon class="{kind}" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in points)}"/>'


def _line_at(y: float, text: str) -> str:
    line = f'<line class="grid" x1="{LEFT}" x2="{WIDTH}" y1="{y:.1f}" y2="{y:.1f}"/>'
    return line + _label(LEFT - 6, y + 4, text, "end")


def _label(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _raised(power: int) -> str:
    return "".join("⁰¹²³⁴⁵⁶⁷⁸⁹"[int(digit)] for digit in str(power))


def _svg(title: str, parts: Sequence[str]) -> str:
    label = escape(title, quote=True)
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{"".join(parts)}</svg>'
