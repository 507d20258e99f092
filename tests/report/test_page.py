"""The page of a report: it stands alone, and its figures equal the run's and `srptq evaluate`'s."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers.pages import Element, addresses, picture, rows

from srptq_plugin.analysis import ANALYSIS
from srptq_plugin.costs.estimate import Estimate
from srptq_plugin.costs.units import scaled
from srptq_plugin.errors import SrptqError
from srptq_plugin.evaluation.evaluate import evaluate
from srptq_plugin.report.page import FOLDER, render, write_page
from srptq_plugin.report.report import Report, measure
from srptq_plugin.report.run_report import RunReport
from srptq_plugin.runs.run import Run

Measured = Callable[[str, int], Report]
Page = Callable[[str, int], Element]
WAYS = pytest.mark.parametrize(("reference", "count"), [("original", 1), ("float", 1), ("original", 2), ("float", 2)])


@WAYS
def test_a_page_needs_no_other_file(page: Page, reference: str, count: int) -> None:
    root = page(reference, count)
    assert all(address.startswith(("data:", "#")) for address in addresses(root))
    assert "http" not in root.one("style").text + root.one("script").text
    assert not re.search(r"url\(|@import", root.one("style").text)


@WAYS
def test_links_lead_to_sections(page: Page, reference: str, count: int) -> None:
    root = page(reference, count)
    sections = {f"#{section.attributes['id']}" for section in root.all("section")}
    assert {link.attributes["href"] for link in root.all("a")} == sections


@pytest.mark.parametrize("count", [1, 2])
def test_scores_are_those_of_evaluate(page: Page, runs: list[Run], photographs: Path, count: int) -> None:
    header, *body, means = rows(page("original", count).one("table", class_="scores"))[count - 1 :]
    columns = [*header[1:]]
    expected = [evaluate(run, photographs, device="cpu") for run in runs[:count]]
    owners = [0, *(n for n, scores in enumerate(expected) for row in scores.means if row["output"] != "bicubic")]
    assert len(columns) == len(owners)
    for number, (name, owner) in enumerate(zip(columns, owners, strict=True), start=1):
        scores = {score.image: score for score in expected[owner].scores if score.output == name}
        assert [line[0] for line in body] == list(scores)
        for line in body:
            assert line[number].split()[0] == f"{scores[line[0]].psnr:.2f}"
            assert line[number].split()[-1] == f"{scores[line[0]].ssim:.4f}"
        mean = next(row for row in expected[owner].means if row["output"] == name)
        assert means[number].split()[0] == f"{mean['psnr']:.2f}"


def test_changes_are_against_the_own_float(report: Measured, page: Page) -> None:
    header, *body, _ = rows(page("original", 1).one("table", class_="scores"))
    plain, integers = header.index("float"), header.index("runtime")
    scores = {(score.image, score.output): score.psnr for score in report("original", 1).runs[0].evaluation.scores}
    for line in body:
        change = scores[line[0], "runtime"] - scores[line[0], "float"]
        assert float(line[integers].split()[1].replace("\N{MINUS SIGN}", "-")) == pytest.approx(change, abs=0.0051)
        assert len(line[plain].split()) == 2


def test_layers_are_the_outputs(report: Measured, page: Page) -> None:
    crops = report("original", 2).crops
    viewers = page("original", 2).all("div", class_="viewer")
    assert len(viewers) == len(crops[0]) == 2
    for number, viewer in enumerate(viewers):
        layers = {image.attributes["data-layer"]: picture(image.attributes["src"]) for image in viewer.all("img")}
        assert set(layers) == {"original", "bicubic", "float-0", "simulated-0", "runtime-0", "simulated-1"}
        for key, shown in layers.items():
            name, _, run = key.partition("-")
            assert np.array_equal(shown, crops[int(run or 0)][number].pixels[name])


def test_the_worst_image_is_first(report: Measured) -> None:
    crops = report("original", 1).crops[0]
    assert [crop.loss for crop in crops] == sorted((crop.loss for crop in crops), reverse=True)
    crop = crops[0]
    squares = np.square(crop.pixels["runtime"].astype(float) - crop.pixels["float"])
    assert crop.loss == pytest.approx(squares.mean())


@pytest.mark.parametrize("count", [1, 2])
def test_choices_offer_every_layer(page: Page, count: int) -> None:
    root = page("original", count)
    layers = {image.attributes["data-layer"] for image in root.all("div", class_="viewer")[0].all("img")}
    for side in ("left", "right"):
        choices = root.all("input", name=side)
        assert {choice.attributes["value"] for choice in choices} == layers
        (chosen,) = (choice.attributes["value"] for choice in choices if "checked" in choice.attributes)
        assert [image.attributes["data-layer"] for image in root.all("img", class_=side)] == [chosen] * 2


def test_the_plan_names_what_stays_float(page: Page, runs: list[Run]) -> None:
    section = page("original", 1).one("section", id="plan")
    plan = runs[0].table.plan
    for name, reason in plan.floats.items():
        assert any(f"{name}: stays float: {reason}" == mark.attributes.get("title") for mark in section.all("span"))
        assert reason in section.text
    wide = [mark for mark in section.all("span") if "wide" in mark.attributes["class"].split()]
    assert len([mark for mark in wide if "integer" in mark.attributes["class"].split()]) == len(plan.convs)


def test_costs_are_those_of_the_estimate(page: Page, runs: list[Run]) -> None:
    table = rows(page("original", 1).one("section", id="cost").all("table")[0])
    record = Estimate.of_run(runs[0]).record()
    assert table[1][:3] == ["arithmetic", *(scaled(record[kind]["bops"], "BitOPs") for kind in ("float", "quantized"))]
    assert table[2][:3] == ["model", *(scaled(record[kind]["size"], "B") for kind in ("float", "quantized"))]


def test_sites_inside_the_runtime_are_listed(report: Measured, page: Page) -> None:
    inside = report("original", 2).runs[0].inside
    assert inside is not None
    section = page("original", 2).one("section", id="inside")
    table = rows(section.one("details").one("table"))
    assert [line[0] for line in table[1:]] == [site.name for site in inside.sites]
    assert [line[3] for line in table[1:]] == [f"{site.own.values:,}" for site in inside.sites]
    assert "nothing was exported" in section.text


def test_sensitivity_is_shown_for_analyzed_runs(report: Measured, page: Page, runs: list[Run]) -> None:
    analysis = json.loads((runs[0].folder / ANALYSIS).read_text())
    section = page("original", 2).one("section", id="sensitivity")
    assert f"{analysis['quantized']['psnr']:.2f} dB" in section.text
    noise = {
        group: part["alone"]["noise"]
        for part in analysis["parts"]
        if part["kind"] == "site"
        for group in part["groups"]
    }
    activations = [group for group, sites in runs[0].table.plan.groups.items() if sites[0].role == "activation"]
    worst = sorted(activations, key=lambda group: -noise[group])
    shown = [site.distribution.site for site in report("original", 2).runs[0].worst]
    assert shown == worst[: len(shown)]
    assert report("original", 2).runs[1].sensitivity is None


def test_names_are_escaped(page: Page) -> None:
    names = {row[0] for row in rows(page("original", 1).one("table", class_="scores"))}
    assert {"0&.png", "1&.png"} <= names
    assert any("2&.png" in line.text for line in page("original", 1).all("p"))


def test_without_originals_float_is_the_reference(report: Measured, page: Page) -> None:
    header, *_ = rows(page("float", 1).one("table", class_="scores"))
    assert header == ["image", "simulated", "runtime"]
    scores = report("float", 1).runs[0].evaluation.scores
    assert {score.image for score in scores} == {image.name for image in report("float", 1).runs[0].run.images()}


@pytest.mark.parametrize(("text", "fault"), [("[", "damaged"), ('{"parts": 3}', "damaged"), ("[]", "damaged")])
def test_a_damaged_analysis_is_refused(runs: list[Run], tmp_path: Path, text: str, fault: str) -> None:
    folder = shutil.copytree(runs[1].folder, tmp_path / "run")
    (folder / ANALYSIS).write_text(text)
    with pytest.raises(SrptqError, match=fault):
        measure([Run.open(folder)], crops=1, device="cpu")


def test_an_analysis_of_another_run_is_left_out(runs: list[Run], tmp_path: Path) -> None:
    folder = shutil.copytree(runs[1].folder, tmp_path / "run")
    record = json.loads((runs[0].folder / ANALYSIS).read_text())
    record["parts"][-1]["groups"] = ["elsewhere"]
    (folder / ANALYSIS).write_text(json.dumps(record))
    measured = measure([Run.open(folder)], crops=1, device="cpu")
    assert measured.runs[0].sensitivity is None
    assert isinstance(measured.runs[0], RunReport)


@pytest.mark.parametrize("problem", ["twice", "none", "crops"])
def test_mistakes_are_refused(runs: list[Run], problem: str) -> None:
    chosen = {"twice": [runs[0], runs[0]], "none": [], "crops": runs}[problem]
    with pytest.raises(SrptqError, match=r"given twice|at least one|1 or more"):
        measure(chosen, crops=0 if problem == "crops" else 1, device="cpu")


def test_a_failed_page_leaves_the_earlier_one(
    report: Measured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "report.html"
    write_page(report("original", 1), path)
    before = path.read_text(encoding="utf-8")
    assert before == render(report("original", 1))
    monkeypatch.setattr("srptq_plugin.report.page.TEMPLATE", "absent.j2")
    with pytest.raises(Exception, match="absent"):
        write_page(report("original", 1), path)
    assert path.read_text(encoding="utf-8") == before
    assert (FOLDER / "report.css").is_file()
