"""Atomic files: a reader finds the whole new content, or the old one."""

import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from srptq_plugin.errors import SrptqError


@contextmanager
def atomic_file(path: Path) -> Generator[Path]:
    """Yield a draft to write to, and move it to `path` once the block succeeded.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with atomic_file(Path(folder, "a.txt")) as draft:
    ...         _ = draft.write_text("all of it")
    ...     Path(folder, "a.txt").read_text()
    'all of it'
    """
    _refuse_special(str(path), path)
    draft = path.with_name(f".{os.getpid()}.{path.name}")
    draft.unlink(missing_ok=True)  # writing to a leftover symbolic link would change the file that it points to
    try:
        yield draft
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def check_file(option: str, path: Path) -> None:
    """Raise `SrptqError` if a file cannot be written, so that a long run does not fail at its end.

    Args:
        option: the name of the argument or option to put into the message.
        path: the file to write later.
    """
    if path.is_dir():
        raise SrptqError(f"{option} {path}: is a folder; give a file")
    _refuse_special(f"{option} {path}", path)
    if not path.parent.is_dir():
        raise SrptqError(f"{option} {path}: no folder {path.parent}; make it, or give a file elsewhere")
    if not os.access(path.parent, os.W_OK):
        raise SrptqError(f"{option} {path}: {path.parent} cannot be written to; give a file elsewhere")


def _refuse_special(name: str, path: Path) -> None:
    """Raise `SrptqError` for a device or a pipe, which moving the draft would replace."""
    if path.exists() and not path.is_file():
        raise SrptqError(f"{name}: is not a regular file; give a file that may be replaced")
