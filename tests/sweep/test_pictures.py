"""Hostile files for `srptq plot`: analyses that are damaged, edited, or of other kinds."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from helpers.mutations import Mutation, edits, flips, replacements, scribbles, truncations
from helpers.sweeping import Sweep, run

pytest.importorskip("matplotlib")
FILE = "found.json"
Runs = Callable[[str], Path]
BYTES = [*replacements(), *truncations(12), *flips(16), *scribbles(12)]


@pytest.fixture(scope="module")
def analysis(runs: Runs, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("analysis") / "analysis.json"
    assert run("analyze", runs("paper"), "--patches", "1", "--by", "stage", "--out", path, "--device", "cpu").code == 0
    return path.read_bytes()


MIXED = {"psnr": 40.0, "bops": 0.5, "size": 0.5}
BUDGET = {
    "curve": {"measure": "bops", "mixtures": [MIXED, {**MIXED, "psnr": 30.0, "bops": 0.3}]},
    "uniform": [{**MIXED, "width": 4}, {**MIXED, "width": 8, "bops": 1.0}],
    "mixed": MIXED,
}


def check(sweep: Sweep, content: bytes) -> None:
    (sweep.place / FILE).write_bytes(content)
    sweep("plot", FILE, names=[FILE], makes=["found-"])


@pytest.mark.parametrize("mutation", BYTES, ids=str)
def test_damaged_analyses(sweep: Sweep, analysis: bytes, mutation: Mutation) -> None:
    check(sweep, mutation(analysis))


@pytest.mark.parametrize("mutation", edits(30, ("parts", "parts", "quantized")), ids=str)
def test_edited_analyses(sweep: Sweep, analysis: bytes, mutation: Mutation) -> None:
    record = json.loads(analysis)
    check(sweep, mutation(json.dumps({**record, "parts": record["parts"][:4]}).encode()))


@pytest.mark.parametrize("mutation", edits(40), ids=str)
def test_edited_budgets(sweep: Sweep, mutation: Mutation) -> None:
    check(sweep, mutation(json.dumps(BUDGET).encode()))


NUMBERS: Mapping[str, Any] = {
    "nothing": None,
    "text": "40",
    "huge": 1e308,
    "tiny": 1e-308,
    "negative": -5.0,
    "zero": 0,
    "nan": float("nan"),
    "infinity": float("inf"),
    "true": True,
    "a list": [1.0],
    "a mapping": {"a": 1},
    "a whole number beyond": 10**400,
}


@pytest.mark.parametrize("key", ["psnr", "bops"])
@pytest.mark.parametrize("number", NUMBERS)
def test_odd_numbers_in_budgets(sweep: Sweep, key: str, number: str) -> None:
    check(sweep, json.dumps({**BUDGET, "mixed": {**MIXED, key: NUMBERS[number]}}).encode())


NAMES = ("", "\x1b[2J", "a\nb", "$\\frac{1}{0}$", "$", "\0", "\ud800", "x" * 3000, "_" * 10, "<b>", "漢字")


@pytest.mark.parametrize("name", NAMES)
def test_odd_names_of_parts(sweep: Sweep, analysis: bytes, name: str) -> None:
    part = {**json.loads(analysis)["parts"][0], "name": name}
    check(sweep, json.dumps({**json.loads(analysis), "parts": [part]}).encode())


@pytest.mark.parametrize("site", ["", "gone", "..", "/", "\x1b[2J", "head", "HEAD.WEIGHT", "*", "x" * 5000])
def test_odd_sites(sweep: Sweep, runs: Runs, site: str) -> None:
    sweep("plot", runs("paper"), f"--site={site}", "--out", "pictures", names=["site"])


PLACES: Mapping[str, Callable[[Path], object]] = {
    "nowhere": Path.exists,
    "a folder": Path.mkdir,
    "a link to nothing": lambda path: path.symlink_to("gone"),
    "a link to itself": lambda path: path.symlink_to(FILE),
    "a device": lambda path: path.symlink_to("/dev/null"),
    "unreadable": lambda path: (path.touch(), path.chmod(0)),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("more", [(), ("--site", "a"), ("--images", "gone"), ("--out", FILE)], ids=str)
def test_analyses_that_are_no_regular_file(sweep: Sweep, place: str, more: tuple[str, ...]) -> None:
    PLACES[place](sweep.place / FILE)
    sweep("plot", FILE, *more, names=[FILE, "--images"])
