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
    """As its file has it."""
    record = ModelRecord("toy", 2, networks.UNIT, None, 0)
    table = QuantTable.of(networks.calibrated("edsr", 4))
    found = analyze(Subject(networks.graph("edsr"), table, record, networks.images(2))).record()
    return json.loads(json.dumps(found))


def heat_map(kind: str, found: dict[str, Any] | None = None) -> HeatMap:
    made = HeatMap.of(found or analysis(), kind)
    assert made is not None
    return made


def of_sites(names: list[str]) -> HeatMap:
    """One in which every site costs more than the one before."""
    return HeatMap("site", names, [(60.0 - n / 9, 30.0 + n / 9) for n in range(len(names))], 30.0, (30.0, 60.0))


@pytest.mark.parametrize("kind", KINDS)
def test_a_part_has_a_row_with_its_name_and_both_numbers(kind: str) -> None:
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


def test_all_kinds_have_the_same_colors_and_the_least_and_the_most_are_their_ends() -> None:
    maps = [heat_map(kind) for kind in KINDS]
    low, high = maps[0].span
    assert {each.span for each in maps} == {(low, high)}
    known = [value for each in maps for both in each.psnr for value in both if value is not None and value < math.inf]
    assert low == min(known)
    assert high == max(known)


def test_a_network_that_overflows_is_no_number() -> None:
    nothing = {"noise": None, "psnr": None}
    found = analysis() | {"quantized": nothing, "parts": [{**each, "alone": nothing} for each in analysis()["parts"]]}
    made = heat_map("stage", found)
    assert {row["alone"] for row in made.record()["rows"]} == {"unknown"}
    texts = [text.get_text() for text in made.drawn().axes[0].texts]
    assert texts.count("unknown") == len(texts) / 2


def test_what_was_not_measured_is_not_drawn() -> None:
    stages = [part for part in analysis()["parts"] if part["kind"] == "stage"]
    assert HeatMap.of(analysis() | {"parts": stages}, "site") is None


@pytest.mark.parametrize(
    ("count", "name"), [(1, "a"), (3, "head"), (100, "module.of.a.very.deep.network.{}.conv_{}.weight")]
)
def test_names_are_whole_and_apart(count: int, name: str) -> None:
    figure = of_sites([name.format(n, n) for n in range(count)]).drawn()
    figure.draw_without_rendering()
    boxes = [label.get_window_extent() for label in figure.axes[0].get_yticklabels()]
    assert all(figure.bbox.x0 <= box.x0 and figure.bbox.y0 <= box.y0 and box.y1 <= figure.bbox.y1 for box in boxes)
    assert all(above.y0 > below.y1 for above, below in pairwise(boxes))
    cells = figure.axes[0].get_window_extent().width / 2
    assert all(text.get_window_extent().width < cells for text in figure.axes[0].texts)


def test_dollars_are_no_mathematics() -> None:
    (axes, _) = of_sites(["a$^2$"]).drawn().axes
    assert not axes.get_yticklabels()[0].get_parse_math()


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_letters_stand_out(share: float) -> None:
    made = HeatMap("site", ["a"], [(30 + 30 * share, None)], None, (30.0, 60.0))
    (axes, _) = made.drawn().axes
    mesh = axes.collections[0]
    mesh.update_scalarmappable()
    behind = _luminance(mesh.get_facecolor()[0])
    ink = axes.texts[0].get_color()
    before = 1.0 if ink == "white" else 0.016
    assert (max(before, behind) + 0.05) / (min(before, behind) + 0.05) > 3


def _luminance(color: Any) -> float:
    """As WCAG has it, of a color of three or four numbers."""
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in color[:3]]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
