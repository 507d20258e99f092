import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers import networks
from helpers.command_line import Srptq, raising, refused
from PIL import Image

from srptq_plugin.pipeline import quantize
from srptq_plugin.runs.run import SUMMARY, Run

pytest.importorskip("torchao")
pytest.importorskip("matplotlib")
HEAT = [f"analysis-{kind}s.png" for kind in ("stage", "block", "site")]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Quantize a toy network. Tests do not change the folder."""
    recipe = networks.recipe(4, "paper", reconstruction=None, calibration={"patches": 2, "size": 16})
    return quantize(recipe, model=networks.network("edsr"), out=tmp_path_factory.mktemp("runs") / "run", device="cpu")


@pytest.fixture
def folder(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Fill the working directory with a run and two files that cannot be drawn."""
    shutil.copytree(run.folder, tmp_path / "run")
    (tmp_path / "damaged.json").write_text('{"parts": [{}]}')
    (tmp_path / "none.json").write_text('{"parts": []}')
    monkeypatch.chdir(tmp_path)
    return tmp_path


def image_size(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        image.verify()
        return image.size


def analyze(srptq: Srptq, run: Run, *more: str) -> dict[str, Any]:
    return json.loads(srptq("analyze", run.folder, "--patches", "1", *more, "--json").out)


def test_analysis_pictures_show_its_numbers(srptq: Srptq, run: Run, tmp_path: Path) -> None:
    folder = shutil.copytree(run.folder, tmp_path / "run")
    analysis = analyze(srptq, Run(folder, run.registry))
    result = srptq("plot", folder, "--json")
    pictures = json.loads(result.out)["pictures"]
    assert [picture["file"] for picture in pictures] == [str(folder / name) for name in HEAT]
    for picture in pictures:
        parts = [part for part in analysis["parts"] if part["kind"] == picture["kind"]]
        assert [row["name"] for row in picture["rows"]] == [part["name"] for part in parts]
        assert [row["alone"] for row in picture["rows"]] == [part["alone"]["psnr"] for part in parts]
    heights = [image_size(folder / name)[1] for name in HEAT]
    assert max(heights) == heights[-1]
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


def test_only_measured_parts_are_drawn(srptq: Srptq, run: Run, tmp_path: Path) -> None:
    analyze(srptq, run, "--by", "block", "--out", str(tmp_path / "a.json"))
    result = srptq("plot", tmp_path / "a.json", "--out", tmp_path / "new" / "pictures")
    file = tmp_path / "new" / "pictures" / "a-blocks.png"
    assert result.out == f"file: {file}\n"
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_budget_writes_a_file_and_a_curve(srptq: Srptq, run: Run, tmp_path: Path) -> None:
    recipe = ("--recipe-out", str(tmp_path / "mixed.yaml"), "--out", str(tmp_path / "b.json"))
    data = analyze(srptq, run, "--budget", "size=0.6", "--bits", "4", "8", *recipe)
    assert json.loads((tmp_path / "b.json").read_text()) == data
    mixtures = data["curve"]["mixtures"]
    assert all("bits" not in mixture for mixture in mixtures)
    (picture,) = json.loads(srptq("plot", tmp_path / "b.json", "--json").out)["pictures"]
    assert picture["file"] == str(tmp_path / "b-curve.png")
    assert picture["mixed"] == [[mixture["size"], mixture["psnr"]] for mixture in mixtures]
    assert picture["uniform"] == {str(row["width"]): [row["size"], row["psnr"]] for row in data["uniform"]}
    assert picture["chosen"] == [data["mixed"]["size"], data["mixed"]["psnr"]]
    assert min(image_size(tmp_path / "b-curve.png")) > 400


def test_budget_leaves_an_analysis_alone(srptq: Srptq, run: Run, tmp_path: Path) -> None:
    folder = shutil.copytree(run.folder, tmp_path / "run")
    analysis = analyze(srptq, Run(folder, run.registry), "--by", "stage")
    recipe = ("--recipe-out", str(tmp_path / "mixed.yaml"))
    analyze(srptq, Run(folder, run.registry), "--budget", "bops=0.5", "--by", "stage", "--bits", "4", "8", *recipe)
    assert json.loads((folder / "analysis.json").read_text()) == analysis
    pictures = json.loads(srptq("plot", folder, "--json").out)["pictures"]
    assert [Path(picture["file"]).name for picture in pictures] == ["analysis-stages.png", "budget-curve.png"]


@pytest.mark.parametrize(
    ("name", "file"), [("body.0/add", "site-body.0-add.png"), ("tail.weight", "site-tail.weight.png")]
)
def test_site_histogram_shows_its_bounds(srptq: Srptq, run: Run, tmp_path: Path, name: str, file: str) -> None:
    command = ("plot", run.folder, "--site", name, "--device", "cpu", "--out", tmp_path)
    (picture,) = json.loads(srptq(*command, "--json").out)["pictures"]
    assert picture["file"] == str(tmp_path / file)
    own = next(site for site in run.summary["sites"] if site["name"] == name)
    assert picture["bounds"]["projected"] == [min(own["lower"]), max(own["upper"])]
    assert picture["bounds"]["observed"] == own["observed"]
    assert len(picture["edges"]) == len(picture["counts"]) + 1
    before = (tmp_path / file).read_bytes()
    assert srptq(*command).out == f"file: {tmp_path / file}\n"
    assert (tmp_path / file).read_bytes() == before


@pytest.mark.parametrize(
    ("argv", "part"),
    [
        (["plot"], "FILE_OR_RUN"),
        (["plot", "run", "--site"], "--site: expected one argument"),
        (["plot", "run"], "run: no analysis.json and no budget.json; `srptq analyze run` makes one"),
        (["plot", "run", "--site", "tail.wieght"], "unknown site 'tail.wieght'; did you mean 'tail.weight'? choices: "),
        (["plot", "run", "--images", "."], "--images: only the values of a site need images; give --site as well"),
        (["plot", "nowhere.json"], "nowhere.json: no such file"),
        (["plot", "nowhere", "--site", "a"], "nowhere: no such run folder"),
        (["plot", "run/model.pt2"], "run/model.pt2: not JSON"),
        (["plot", f"run/{SUMMARY}"], "not a file that `srptq analyze` wrote"),
        (["plot", "damaged.json"], "damaged.json: damaged (KeyError('kind')); run `srptq analyze` again"),
        (["plot", "damaged.json", "--site", "a"], "damaged.json is a file; give the run folder"),
        (["plot", "none.json"], "none.json: no part was measured there"),
        (["plot", "run", "--site", "tail.weight", "--out", "none.json"], "--out none.json: is a file; give a folder"),
    ],
)
def test_plot_mistakes_are_refused(srptq: Srptq, folder: Path, argv: list[str], part: str) -> None:
    refused(srptq(*argv), part)
    assert not list(folder.rglob("*.png"))


def test_missing_matplotlib_is_refused(srptq: Srptq, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    refused(srptq("plot", run.folder), "matplotlib is not installed; pip install 'srptq-plugin[plot]'")


def test_failed_picture_leaves_the_old_one(
    srptq: Srptq, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "site-tail.weight.png").write_text("before")
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", raising(OSError(28, "No space left on device")))
    refused(srptq("plot", run.folder, "--site", "tail.weight", "--out", tmp_path), "No space left on device")
    assert [path.name for path in tmp_path.iterdir()] == ["site-tail.weight.png"]
    assert (tmp_path / "site-tail.weight.png").read_text() == "before"
