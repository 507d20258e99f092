"""Atomic changes of a run folder: killed at every change of a file, by two processes, with links, on a full disk."""

import errno
import os
import shutil
import signal
import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path
from subprocess import run as process
from types import SimpleNamespace

import pytest
from helpers import killing, networks
from helpers.command_line import raising, returning
from helpers.killing import quantize_toy, save_images

from srptq_adapters.targets.paper import PaperTarget
from srptq_plugin.errors import SrptqError
from srptq_plugin.qat.train_run import train_run
from srptq_plugin.runs import atomic_folder
from srptq_plugin.runs.atomic_folder import COMMITTED, DRAFT, complete
from srptq_plugin.runs.folder import RunFolder
from srptq_plugin.runs.run import RECIPE, SUMMARY
from srptq_plugin.utils import atomic_file

OLD = {SUMMARY: '{"schema": 1, "artifacts": ["old.xml"]}', RECIPE: "old", "old.xml": "old"}
NEW = {SUMMARY: '{"schema": 1, "artifacts": ["new.xml"]}', RECIPE: "new", "new.xml": "new"}
CHANGES = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "open")


def put(folder: Path, files: dict[str, str]) -> None:
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text)


def replace(folder: Path) -> None:
    with RunFolder(folder).draft() as draft:
        put(draft, NEW)


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir() if path.is_file()}


def killed_at(change: int, work: Callable[[], None]) -> bool:
    """Do some work in a child process and kill it before its n-th change of a file.

    Returns:
        False if the work ended with fewer changes.
    """
    child = os.fork()
    if child:
        return os.WIFSIGNALED(os.waitpid(child, 0)[1])
    countdown = count(change, -1)

    def watch(event: str, _: object) -> None:
        if event in CHANGES and next(countdown) == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    work()
    os._exit(0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forks of this process")
def test_killed_at_any_change_one_run_is_whole(tmp_path: Path) -> None:
    new: list[bool] = []
    for change in count():
        folder = tmp_path / str(change)
        put(folder, OLD)
        was_killed = killed_at(change, lambda folder=folder: replace(folder))
        complete(folder, SUMMARY)
        assert contents(folder) in (OLD, NEW), change
        new.append(contents(folder) == NEW)
        replace(folder)
        assert {path.name for path in folder.iterdir()} == {*NEW}
        if not was_killed:
            break
    # One change decides: before it the old run stays, after it the new one is completed.
    assert new == sorted(new)
    assert 3 < new.index(True) < len(new) - 3


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forks")
@pytest.mark.parametrize("kind", ["quantize", "train"])
def test_killed_at_any_moment_a_run_is_whole(kind: str) -> None:
    kills = os.environ.get("SRPTQ_KILLS", "1")
    command = [sys.executable, "-W", "ignore", str(Path(killing.__file__)), kind, kills]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = process(command, capture_output=True, text=True, check=False, env=environment)  # noqa: S603
    assert done.returncode == 0, done.stderr
    assert f"of {kills} were killed" in done.stdout


def test_another_process_s_commit_is_completed_first(tmp_path: Path) -> None:
    put(tmp_path / "run", OLD)
    run = RunFolder(tmp_path / "run")
    put(tmp_path / "run" / COMMITTED, {**NEW, "new.xml": "of another process"})
    with run.draft() as draft:
        assert contents(tmp_path / "run")["new.xml"] == "of another process"
        put(draft, NEW)
    assert contents(tmp_path / "run") == {**NEW, "old.xml": "old"}


def test_a_link_as_commit_is_not_followed(tmp_path: Path) -> None:
    put(tmp_path / "precious", {"thesis.tex": "mine"})
    put(tmp_path / "run", OLD)
    (tmp_path / "run" / COMMITTED).symlink_to(tmp_path / "precious")
    complete(tmp_path / "run", SUMMARY)
    assert contents(tmp_path / "precious") == {"thesis.tex": "mine"}


def test_old_drafts_are_removed_but_links_not_followed(tmp_path: Path) -> None:
    put(tmp_path / "precious", {"thesis.tex": "mine"})
    put(tmp_path / "run", OLD)
    put(tmp_path / "run" / f"{DRAFT}x", {"model.onnx": "half"})
    (tmp_path / "run" / f"{DRAFT}y").symlink_to(tmp_path / "precious")
    replace(tmp_path / "run")
    assert contents(tmp_path / "precious") == {"thesis.tex": "mine"}
    assert not (tmp_path / "run" / f"{DRAFT}x").exists()


def test_links_as_run_files_are_replaced(tmp_path: Path) -> None:
    put(tmp_path / "run", OLD)
    for name in (RECIPE, "old.xml"):
        (tmp_path / name).write_text("mine")
        (tmp_path / "run" / name).unlink()
        (tmp_path / "run" / name).symlink_to(tmp_path / name)
    replace(tmp_path / "run")
    assert contents(tmp_path / "run") == NEW
    assert not (tmp_path / "run" / RECIPE).is_symlink()
    assert [(tmp_path / name).read_text() for name in (RECIPE, "old.xml")] == ["mine", "mine"]


def test_a_link_as_draft_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    (tmp_path / f".{os.getpid()}.a.txt").symlink_to(tmp_path / "precious")
    with atomic_file.atomic_file(tmp_path / "a.txt") as draft:
        draft.write_text("new")
    assert (tmp_path / "precious").read_text() == "mine"
    assert (tmp_path / "a.txt").read_text() == "new"


HOLDING = """
import sys
from pathlib import Path
from srptq_plugin.errors import SrptqError
from srptq_plugin.runs.folder import RunFolder
try:
    with RunFolder(Path(sys.argv[1])).draft():
        pass
except SrptqError as error:
    sys.exit(str(error))
"""


@pytest.mark.skipif(atomic_folder.fcntl is None, reason="Windows has no such locks")
def test_a_second_process_is_refused(tmp_path: Path) -> None:
    put(tmp_path / "run", OLD)
    command = [sys.executable, "-c", HOLDING, str(tmp_path / "run")]
    with RunFolder(tmp_path / "run").draft() as draft:
        put(draft, NEW)
        other = process(command, capture_output=True, text=True, check=False)  # noqa: S603
        assert other.returncode == 1
        assert "run: another process writes there; wait for it, or give another folder" in other.stderr
        assert list((tmp_path / "run").glob(f"{DRAFT}*")) == [draft]
    assert contents(tmp_path / "run") == NEW
    with (
        pytest.raises(SrptqError, match="another process"),
        RunFolder(tmp_path / "run").draft(),
        RunFolder(tmp_path / "run").draft(),
    ):
        pass


def test_a_file_system_without_locks_is_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    none = SimpleNamespace(LOCK_EX=2, LOCK_NB=4, flock=raising(OSError(errno.ENOLCK, "no locks")))
    for locks in (none, None):
        monkeypatch.setattr(atomic_folder, "fcntl", locks)
        replace(tmp_path / "run")
        assert contents(tmp_path / "run") == NEW


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photographs") / "images"
    save_images(folder)
    return folder


FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
WRITERS = {
    "the network": "torch.export.save",
    "the ONNX file": "onnx.save",
    "the recipe and the summary": "pathlib.Path.write_text",
    "the table": "srptq_plugin.deploy.quant_table.QuantTable.save",
}


@pytest.mark.parametrize("writer", WRITERS)
def test_a_full_disk_leaves_the_earlier_run(writer: str, honest: Path, tmp_path: Path) -> None:
    out = shutil.copytree(honest, tmp_path / "run")
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(WRITERS[writer], raising(FULL))
        with pytest.raises(SrptqError, match=r"run: cannot be written \(No space left on device\); make room, or give"):
            quantize_toy(4, out)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_a_full_disk_behind_another_error_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", returning(SimpleNamespace(free=0)))
    monkeypatch.setattr("torch.export.save", raising(RuntimeError("PytorchStreamWriter failed writing file")))
    with pytest.raises(SrptqError, match=r"cannot be written \(No space left on device\)"):
        quantize_toy(8, tmp_path / "run")
    assert [path.name for path in tmp_path.iterdir()] == ["run.quantizing"]  # for `resume=True`


def test_a_read_only_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "run", OLD)
    refusal = OSError(errno.EROFS, os.strerror(errno.EROFS), str(tmp_path / "run"))
    monkeypatch.setattr("srptq_plugin.runs.folder.TemporaryDirectory", raising(refusal))
    with pytest.raises(SrptqError, match=r"run: cannot be written \(Read-only file system\)"):
        quantize_toy(8, tmp_path / "run")
    assert contents(tmp_path / "run") == OLD


def test_an_error_about_other_files_passes_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PaperTarget, "write", raising(PermissionError(errno.EACCES, "denied", "/elsewhere")))
    with pytest.raises(PermissionError):
        quantize_toy(8, tmp_path / "run")


def test_training_on_a_full_disk_leaves_nothing(
    honest: Path, photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = networks.recipe(8, "paper", training={"steps": 2, "patch": 8, "batch": 2, "every": 1})
    monkeypatch.setattr("pathlib.Path.replace", raising(FULL))
    with pytest.raises(SrptqError, match=r"trained\.training: cannot be written \(No space left on device\)"):
        train_run(recipe, honest, images=photographs, out=tmp_path / "trained", device="cpu")
    assert not (tmp_path / "trained").exists()
