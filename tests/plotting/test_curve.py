from typing import Any

import pytest

from srptq_plugin.plotting.curve import Curve

pytest.importorskip("matplotlib")


def mixture(size: float, bops: float, psnr: float | None) -> dict[str, Any]:
    return {"size": size, "bops": bops, "psnr": psnr}


ANALYSIS = {
    "curve": {"measure": "bops", "mixtures": [mixture(0.5, 0.25, 25.0), mixture(0.7, 0.5, 40.0), mixture(2, 4, None)]},
    "uniform": [{"width": 4, **mixture(0.5, 0.25, 25.0)}, {"width": 8, **mixture(1, 1, 49.0)}],
    "mixed": mixture(0.6, 0.3, 33.0),
}


@pytest.mark.parametrize(("measure", "label"), [("bops", "BitOPs"), ("size", "size of the weights")])
def test_points_are_drawn_at_their_numbers(measure: str, label: str) -> None:
    analysis = ANALYSIS | {"curve": ANALYSIS["curve"] | {"measure": measure}}  # pyright: ignore[reportOperatorIssue]
    (axes,) = Curve.of(analysis).drawn().axes
    mixed, uniform, chosen = ([tuple(map(float, point)) for point in line.get_xydata()] for line in axes.lines)  # pyright: ignore[reportGeneralTypeIssues]
    own = {cost: ANALYSIS["mixed"][cost] for cost in ("size", "bops")}  # pyright: ignore[reportArgumentType, reportCallIssue]
    assert mixed == [
        ({"size": 0.5, "bops": 0.25}[measure], 25),
        (own[measure], 33),
        ({"size": 0.7, "bops": 0.5}[measure], 40),
    ]
    assert uniform == [({"size": 0.5, "bops": 0.25}[measure], 25), (1, 49)]
    assert chosen == [(own[measure], 33)]
    assert [text.get_text() for text in axes.texts] == ["4 bits", "8 bits"]
    assert axes.get_xlabel() == f"{label}, as a share of 8 bits everywhere"


def test_points_without_psnr_are_left_out() -> None:
    curve = Curve.of(ANALYSIS | {"mixed": mixture(0.6, 0.3, None)})
    assert curve.record() == {
        "measure": "bops",
        "mixed": [(0.25, 25), (0.5, 40)],
        "uniform": {4: (0.25, 25), 8: (1, 49)},
        "chosen": None,
    }
    (axes,) = curve.drawn().axes
    assert list(axes.lines[-1].get_xydata()) == []  # pyright: ignore[reportArgumentType, reportCallIssue]
