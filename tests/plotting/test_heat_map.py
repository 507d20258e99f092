import json
import math
from functools import cache
from itertools import pairwise
from typing import Any

import pytest
from helpers import networks

from srptq_plugin.analysis import KINDS
from srptq_plugin.analysis.analyze import analyze
from srptq_plugin.analysis.subject import Subject
from srptq_plugin.deploy.quant_table import QuantTable
from srptq_plugin.models.model_record import ModelRecord
from srptq_plugin.plotting.heat_map import HeatMap

pytest.importorskip("matplotlib")


@cache
def analysis() -> dict[str, Any]:
    """Return an analysis as read from its file."""
    record = ModelRecord("toy", 2, networks.UNIT, None, 0)
    table = QuantTable.of(networks.calibrated("edsr", 4))
    analyzed = analyze(Subject(networks.graph("edsr"), table, record, networks.images(2))).record()
    return json.loads(json.dumps(analyzed))


def heat_map(kind: str, record: dict[str, Any] | None = None) -> HeatMap:
    plot = HeatMap.of(record or analysis(), kind)
    assert plot is not None
    return plot


def map_of_sites(names: list[str]) -> HeatMap:
    """Return a heat map in which every site costs more than the previous one."""
    return HeatMap("site", names, [(60.0 - n / 9, 30.0 + n / 9) for n in range(len(names))], 30.0, (30.0, 60.0))


@pytest.mark.parametrize("kind", KINDS)
def test_each_part_has_a_labeled_row(kind: str) -> None:
    parts = [part for part in analysis()["parts"] if part["kind"] == kind]
    (axes, _) = heat_map(kind).drawn().axes
    assert [label.get_text() for label in axes.get_yticklabels()] == [part["name"] for part in parts]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["alone", "left float"]
    texts = {text.get_position(): text.get_text() for text in axes.texts}
    assert len(texts) == 2 * len(parts)
    for row, part in enumerate(parts):
        for column, way in enumerate(("alone", "left_float")):
            quality = part[way]
            assert texts[column, row] == (f"{quality['psnr']:.2f}" if quality["noise"] else "as float")
    assert axes.yaxis_inverted()


def test_all_kinds_share_one_color_map() -> None:
    maps = [heat_map(kind) for kind in KINDS]
    low, high = maps[0].span
    assert {plot.span for plot in maps} == {(low, high)}
    known = [value for plot in maps for pair in plot.psnr for value in pair if value is not None and value < math.inf]
    assert low == min(known)
    assert high == max(known)


def test_an_overflow_is_drawn_as_unknown() -> None:
    overflow = {"noise": None, "psnr": None}
    parts = [{**part, "alone": overflow} for part in analysis()["parts"]]
    plot = heat_map("stage", analysis() | {"quantized": overflow, "parts": parts})
    assert {row["alone"] for row in plot.record()["rows"]} == {"unknown"}
    texts = [text.get_text() for text in plot.drawn().axes[0].texts]
    assert texts.count("unknown") == len(texts) / 2


def test_an_unmeasured_kind_has_no_heat_map() -> None:
    stages = [part for part in analysis()["parts"] if part["kind"] == "stage"]
    assert HeatMap.of(analysis() | {"parts": stages}, "site") is None


@pytest.mark.parametrize(
    ("count", "name"), [(1, "a"), (3, "head"), (100, "module.of.a.very.deep.network.{}.conv_{}.weight")]
)
def test_names_are_complete_and_do_not_overlap(count: int, name: str) -> None:
    figure = map_of_sites([name.format(n, n) for n in range(count)]).drawn()
    figure.draw_without_rendering()
    boxes = [label.get_window_extent() for label in figure.axes[0].get_yticklabels()]
    assert all(figure.bbox.x0 <= box.x0 and figure.bbox.y0 <= box.y0 and box.y1 <= figure.bbox.y1 for box in boxes)
    assert all(above.y0 > below.y1 for above, below in pairwise(boxes))
    cells = figure.axes[0].get_window_extent().width / 2
    assert all(text.get_window_extent().width < cells for text in figure.axes[0].texts)


def test_dollar_signs_are_not_parsed_as_math() -> None:
    (axes, _) = map_of_sites(["a$^2$"]).drawn().axes
    assert not axes.get_yticklabels()[0].get_parse_math()


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_text_contrasts_with_its_cell(share: float) -> None:
    plot = HeatMap("site", ["a"], [(30 + 30 * share, None)], None, (30.0, 60.0))
    (axes, _) = plot.drawn().axes
    mesh = axes.collections[0]
    mesh.update_scalarmappable()
    background = _luminance(mesh.get_facecolor()[0])
    text = 1.0 if axes.texts[0].get_color() == "white" else 0.016
    assert (max(text, background) + 0.05) / (min(text, background) + 0.05) > 3  # WCAG asks for 3 to 1


def _luminance(color: Any) -> float:
    """Return the relative luminance of an RGB or RGBA color, as WCAG defines it."""
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in color[:3]]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
