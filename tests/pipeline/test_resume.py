"""`quantize --resume`: a run that was killed goes on, and ends with the bits of a run that was not."""

import os
import shutil
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import networks
from helpers.command_line import raising
from helpers.killing import spawn
from torch import nn

from srptq_plugin.errors import SrptqError
from srptq_plugin.pipeline import quantize
from srptq_plugin.recipes.recipe import Recipe
from srptq_plugin.reconstruction import pac_state
from srptq_plugin.runs.run import Run
from srptq_plugin.runs.summary import collect_versions
from srptq_plugin.utils.progress import Progress, quiet

pytest.importorskip("torchao")
pytest.importorskip("onnxruntime")
Step = tuple[str, int]
CALIBRATION = {"patches": 4, "size": 12, "batch": 2}
PAC = {"name": "pac", "epochs": 2, "weights": "rounding", "start": "image", "bias_correction": True}
FILES = {"checkpoint.pt", "reconstruction.pt"}


def recipe(**keys: Any) -> Recipe:
    every_phase = {"float_above": 0.02, "equalize": True, "reconstruction": PAC, "calibration": CALIBRATION}
    weights = {"bits": 8, "rounding": "compensated"}
    observer = {"observer": "dbdc", "options": {"ratio": 0.01}}
    made = networks.recipe(8, "onnxruntime", activations=observer, **{**every_phase, **keys})
    return made.model_copy(update={"weights": made.weights.model_copy(update=weights)})


def run_to(folder: Path, progress: Progress = quiet, **options: Any) -> Run:
    chosen: dict[str, Any] = {"recipe": recipe(), "model": networks.network("edsr"), "device": "cpu"} | options
    return quantize(**chosen, out=folder / "run", progress=progress)


def killed_at(folder: Path, step: Step) -> None:
    """Start a run in another process, and let it kill itself at a step."""

    def kill(*reached: Any) -> None:
        if reached[:2] == step:
            os.kill(os.getpid(), signal.SIGKILL)

    _, status = os.waitpid(spawn(lambda: run_to(folder, kill)), 0)
    assert os.WIFSIGNALED(status)


def contents(folder: Path) -> Mapping[str, bytes]:
    """Return the files of a run. The summary holds seconds."""
    return {path.name: path.read_bytes() for path in (folder / "run").iterdir() if path.name != "summary.json"}


@pytest.fixture(scope="module", autouse=True)
def every_step_is_saved() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pac_state, "SECONDS", 0.0)
        patch.setattr(pac_state, "SHARE", float("inf"))
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole")
    run_to(folder)
    return folder


@pytest.fixture(scope="module")
def tuning(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run that was killed within its reconstruction."""
    folder = tmp_path_factory.mktemp("tuning")
    killed_at(folder, ("tuning", 3))
    return folder


@pytest.fixture
def stopped(tuning: Path, tmp_path: Path) -> Path:
    shutil.copytree(tuning, tmp_path, dirs_exist_ok=True)
    return tmp_path


@pytest.mark.parametrize(
    ("step", "next_step"),
    [
        (("observing", 1), ("observing", 0)),
        (("choosing bounds", 0), ("choosing bounds", 0)),
        (("rounding weights", 0), ("rounding weights", 0)),
        (("verifying", 2), ("writing files", 0)),
    ],
)
def test_killed_runs_end_with_the_same_files(whole: Path, tmp_path: Path, step: Step, next_step: Step) -> None:
    killed_at(tmp_path, step)
    steps: list[Step] = []
    run_to(tmp_path, lambda what, done, _: steps.append((what, done)), resume=True)
    first = next(
        reached for reached in steps if reached[0] not in ("loading network and images", "tracing the network")
    )
    assert first == next_step
    assert contents(tmp_path) == contents(whole)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_tuning_goes_on_from_its_last_step(whole: Path, stopped: Path) -> None:
    assert {path.name for path in (stopped / "run.quantizing").iterdir()} == FILES
    steps: list[Step] = []
    resumed = run_to(stopped, lambda what, done, _: steps.append((what, done)), resume=True)
    assert [done for what, done in steps if what == "tuning"] == [3, 4]
    assert contents(stopped) == contents(whole)
    assert resumed.summary["reconstruction"] == Run.open(whole / "run").summary["reconstruction"]
    assert resumed.summary["sites"] == Run.open(whole / "run").summary["sites"]


def other_weights() -> nn.Module:
    module = networks.network("edsr")
    with torch.no_grad():
        next(module.parameters()).mul_(1.01)
    return module


@pytest.mark.parametrize(
    ("what", "changed"),
    [
        ("recipe", lambda: {"recipe": recipe(reconstruction={**PAC, "epochs": 3})}),
        ("network", lambda: {"model": other_weights()}),
        ("set of images", lambda: {"overrides": ["calibration.choose=detail"]}),
    ],
)
def test_other_inputs_are_refused(stopped: Path, what: str, changed: Callable[[], dict[str, Any]]) -> None:
    with pytest.raises(SrptqError, match=rf"run\.quantizing/checkpoint\.pt: begun with another .*{what}; resume with"):
        run_to(stopped, resume=True, **changed())


def test_another_version_is_refused(stopped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def newer(bound: Any) -> dict[str, str]:
        return {**collect_versions(bound), "torch": "99.0"}

    monkeypatch.setattr("srptq_plugin.calibration.calibration_state.collect_versions", newer)
    with pytest.raises(SrptqError, match=r"begun with another version of torch; resume with"):
        run_to(stopped, resume=True)


def test_a_damaged_state_is_refused(stopped: Path) -> None:
    state = stopped / "run.quantizing" / "checkpoint.pt"
    content = bytearray(state.read_bytes())
    content[len(content) // 2] ^= 1
    state.write_bytes(content)
    with pytest.raises(SrptqError, match=r"checkpoint\.pt: damaged \(.*\); remove .*run\.quantizing to start again"):
        run_to(stopped, resume=True)


def test_without_a_state_the_run_begins(whole: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run_to(tmp_path, resume=True)
    assert "nothing to resume, so the run starts from the beginning" in caplog.text
    assert contents(tmp_path) == contents(whole)


def test_without_resume_the_state_is_replaced(stopped: Path) -> None:
    steps: list[str] = []
    run_to(stopped, lambda what, _done, _total: steps.append(what), recipe=recipe(reconstruction=None))
    assert "observing" in steps
    assert not (stopped / "run.quantizing").exists()


def test_an_unloadable_file_keeps_the_calibration(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = Run.open(whole / "run").target
    with monkeypatch.context() as patch:
        patch.setattr(type(target), "load", raising(SrptqError("model.qdq.onnx: no kernel")))
        with pytest.raises(SrptqError, match=r"no kernel\nthe calibration is kept in .*: with `resume=True` only"):
            run_to(tmp_path)
    assert not (tmp_path / "run").exists()
    steps: list[str] = []
    run_to(tmp_path, lambda what, _done, _total: steps.append(what), resume=True)
    assert not {"observing", "tuning", "rounding weights"}.intersection(steps)
    assert contents(tmp_path) == contents(whole)


def test_an_interruption_names_the_option(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def interrupt(what: str, _done: int, _total: int) -> None:
        if what == "tuning":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_to(tmp_path, interrupt)
    assert "run.quantizing holds what was calibrated: continue with `resume=True`" in caplog.text


def test_without_room_for_a_state_it_runs(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "run.quantizing").touch()
    assert run_to(tmp_path, recipe=recipe(reconstruction=None)).summary["verify"]["passed"]
    assert "run.quantizing: cannot be made (File exists), so this run cannot be resumed" in caplog.text
