"""A run folder: whole or absent, with only its own files replaced, and read back with errors that name a file."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers import networks

from srptq_adapters.targets.onnxruntime import OnnxRuntimeTarget
from srptq_plugin.errors import SrptqError
from srptq_plugin.pipeline import quantize
from srptq_plugin.recipes.recipe import Recipe
from srptq_plugin.runs.folder import RunFolder
from srptq_plugin.runs.run import NETWORK, PROGRAM, RECIPE, SUMMARY, TABLE, Run
from srptq_plugin.runs.verify import verify

pytest.importorskip("torchao")
pytest.importorskip("onnxruntime")

OWN = (RECIPE, NETWORK, PROGRAM, TABLE, SUMMARY)
QDQ = "model_onnxruntime.onnx"


def small(target: str = "onnxruntime", **keys: Any) -> Recipe:
    return networks.recipe(8, target, calibration={"patches": 2, "size": 12}, **keys)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Quantize a toy network. Tests must not change the run."""
    return quantize(small(), model=networks.network("shared"), out=tmp_path_factory.mktemp("runs") / "run").folder


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    """Copy the run, so that it can be changed."""
    return shutil.copytree(finished, tmp_path / "run")


def failing(*_: object) -> None:
    raise SrptqError("the disk is full")


def test_a_run_is_read_back(folder: Path) -> None:
    run = Run.open(str(folder))
    assert [path.name for path in run.artifacts] == [QDQ]
    assert (run.scale, run.input_range, run.size) == (2, (0.0, 1.0), None)
    assert run.recipe == Recipe.load(folder / RECIPE)
    image = networks.images(1, 9, 11).numpy()
    assert run.float()(image).shape == run.simulation()(image).shape == (1, 3, 18, 22)
    assert not (run.float()(image) == run.simulation()(image)).all()


def test_a_run_may_move(folder: Path, tmp_path: Path) -> None:
    folder.rename(tmp_path / "elsewhere")
    assert verify(Run.open(tmp_path / "elsewhere"))["passed"]


def test_another_target_replaces_only_the_run_s_files(folder: Path) -> None:
    (folder / "notes.txt").write_text("mine")
    (folder / "plots").mkdir()
    quantize(small("paper"), model=networks.network("shared"), out=folder)
    assert {path.name for path in folder.iterdir()} == {*OWN, "notes.txt", "plots"}
    assert (folder / "notes.txt").read_text() == "mine"
    assert Run.open(folder).summary["target"] == "paper"


def test_an_error_midway_leaves_the_earlier_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "notes.txt").write_text("mine")
    before = contents(folder)
    monkeypatch.setattr(OnnxRuntimeTarget, "write", failing)
    with pytest.raises(SrptqError, match="the disk is full"):
        quantize(small(), model=networks.network("edsr"), out=folder)
    assert contents(folder) == before


@pytest.mark.parametrize("error", [SrptqError, KeyboardInterrupt, MemoryError])
def test_an_error_midway_leaves_no_new_folder(
    error: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        assert list(tmp_path.rglob(TABLE)), "the draft is written within the folder"
        raise error

    monkeypatch.setattr(OnnxRuntimeTarget, "write", fail)
    with pytest.raises(error):
        quantize(small(), model=networks.network("shared"), out=tmp_path / "deep" / "run")
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["run.quantizing"]  # for `resume=True`


def test_an_empty_folder_of_the_user_stays(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with pytest.raises(SrptqError), RunFolder(tmp_path / "run").draft():
        failing()
    assert list((tmp_path / "run").iterdir()) == []


def test_an_error_while_verifying_leaves_the_earlier_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = contents(folder)
    monkeypatch.setattr(OnnxRuntimeTarget, "load", failing)
    with pytest.raises(SrptqError, match="the disk is full"):
        quantize(small(), model=networks.network("shared"), out=folder)
    assert contents(folder) == before


FOREIGN: list[Callable[[Path], object]] = [
    lambda folder: (folder / "thesis.tex").write_text("x"),
    lambda folder: (folder / SUMMARY).write_text("not JSON"),
    lambda folder: (folder / SUMMARY).write_text('{"artifacts": []}'),
    lambda folder: (folder / SUMMARY).write_text("[]"),
    lambda folder: (folder / NETWORK).write_text("x"),
]


@pytest.mark.parametrize("put", FOREIGN)
def test_a_folder_of_foreign_files_is_refused_first(put: Callable[[Path], object], tmp_path: Path) -> None:
    out = tmp_path / "mine"
    out.mkdir()
    put(out)
    before = contents(out)
    with pytest.raises(SrptqError, match="mine: holds files that belong to no run; give a new or empty folder"):
        quantize(small(), images=tmp_path / "nowhere", out=out)
    assert contents(out) == before


def test_a_killed_run_leaves_its_folder_usable(tmp_path: Path) -> None:
    (tmp_path / "run" / ".draft-x").mkdir(parents=True)
    (tmp_path / "run" / ".draft-x" / "model.onnx").write_text("half")
    with RunFolder(tmp_path / "run").draft() as draft:
        (draft / "summary.json").write_text("{}")
    assert (tmp_path / "run" / "summary.json").read_text() == "{}"


def test_a_file_as_run_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("x")
    with pytest.raises(SrptqError, match="run: is a file; give a folder"):
        quantize(small(), images=tmp_path / "nowhere", out=tmp_path / "run")


def test_a_folder_below_a_file_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with (
        pytest.raises(SrptqError, match=r"cannot be made.*give another folder"),
        RunFolder(tmp_path / "file" / "run").draft(),
    ):
        pass


def test_a_summary_that_names_files_elsewhere_deletes_none(folder: Path) -> None:
    outside = folder.parent / "precious.txt"
    outside.write_text("x")
    summary = json.loads((folder / SUMMARY).read_text())
    (folder / SUMMARY).write_text(json.dumps({**summary, "artifacts": ["../precious.txt", str(outside), QDQ]}))
    with RunFolder(folder).draft() as draft:
        (draft / SUMMARY).write_text("{}")
    assert outside.exists()
    assert [path.name for path in folder.iterdir()] == [SUMMARY]


@pytest.mark.parametrize("name", OWN)
def test_a_missing_file_is_named(name: str, folder: Path) -> None:
    (folder / name).unlink()
    with pytest.raises(SrptqError, match=rf"not a whole run folder, {name} missing; run `srptq quantize` again"):
        Run.open(folder)


def test_a_missing_folder_says_what_makes_one(tmp_path: Path) -> None:
    with pytest.raises(SrptqError, match="nowhere: no such run folder; `srptq quantize` makes one"):
        Run.open(tmp_path / "nowhere")


@pytest.mark.parametrize("content", [b"", b"\0garbage", b"\xff\xfe{"])
@pytest.mark.parametrize("name", [*OWN, QDQ])
def test_a_file_that_was_tampered_with_is_named(name: str, content: bytes, folder: Path) -> None:
    (folder / name).write_bytes(content)
    with pytest.raises(SrptqError, match=name.replace(".", r"\.")):
        verify(Run.open(folder))


def test_a_missing_artifact_is_named(folder: Path) -> None:
    (folder / QDQ).unlink()
    with pytest.raises(SrptqError, match=QDQ):
        verify(Run.open(folder))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 2}, "schema 2, this version reads 1; run `srptq quantize` again"),
        ({"schema": None}, "schema None, this version reads 1"),
        ({"artifacts": ...}, "no artifacts in it"),
        ({"model": ..., "artifacts": ...}, "no model and no artifacts in it"),
        ({"model": {"name": "edsr"}}, r"its entry for the model is damaged \(KeyError\('input_range'\)\)"),
        (
            {"model": {"name": "edsr", "input_range": [0, 1], "scale": 1, "parameters": 1, "channels": 4}},
            r"its entry .*channels: 4",
        ),
        ({"model": 3}, "its entry for the model is damaged"),
        ({"model": {"name": "edsr", "input_range": [0], "scale": 2, "parameters": 1}}, "its entry for the model is"),
    ],
)
def test_a_damaged_summary_is_refused(change: dict[str, Any], message: str, folder: Path) -> None:
    summary = {**json.loads((folder / SUMMARY).read_text()), **change}
    summary = {key: value for key, value in summary.items() if value is not ...}
    (folder / SUMMARY).write_text(json.dumps(summary))
    with pytest.raises(SrptqError, match=rf"summary\.json: {message}"):
        Run.open(folder)


def test_a_run_without_channels_has_three(folder: Path) -> None:
    summary = json.loads((folder / SUMMARY).read_text())
    del summary["model"]["channels"]
    (folder / SUMMARY).write_text(json.dumps(summary))
    assert Run.open(folder).record.channels == 3
    summary["model"]["channels"] = 1
    (folder / SUMMARY).write_text(json.dumps(summary))
    with pytest.raises(SrptqError, match=r"says that images have 1 channels, and model\.pt2 reads 3"):
        Run.open(folder).float()


def test_a_table_of_another_network_is_named(folder: Path, tmp_path: Path) -> None:
    other = quantize(small("paper"), model=networks.network("bicubic"), out=tmp_path / "other").folder
    shutil.copy(other / TABLE, folder / TABLE)
    with pytest.raises(SrptqError, match=r"quant_table\.safetensors: of another network than model\.pt2"):
        verify(Run.open(folder))
