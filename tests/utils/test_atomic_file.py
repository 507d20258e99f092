import os
from contextlib import suppress
from pathlib import Path

import pytest

from srptq_plugin.errors import SrptqError
from srptq_plugin.utils.atomic_file import atomic_file, check_file


def test_an_unfinished_draft_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with suppress(ZeroDivisionError), atomic_file(path) as draft:
        draft.write_text("half")
        draft.write_text(str(1 / 0))
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_check_file_refuses_unwritable_files(tmp_path: Path) -> None:
    check_file("--csv", tmp_path / "a.csv")
    with pytest.raises(SrptqError, match="is a folder; give a file"):
        check_file("--csv", tmp_path)
    with pytest.raises(SrptqError, match=r"no folder .*nowhere; make it"):
        check_file("--csv", tmp_path / "nowhere" / "a.csv")


def test_a_pipe_is_never_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    for path in (tmp_path / "pipe", tmp_path / "link"):
        with pytest.raises(SrptqError, match="is not a regular file"):
            check_file("--csv", path)
        with pytest.raises(SrptqError, match="is not a regular file"), atomic_file(path) as draft:
            draft.write_text("all of it")
    assert (tmp_path / "pipe").is_fifo()
    assert (tmp_path / "link").is_symlink()
