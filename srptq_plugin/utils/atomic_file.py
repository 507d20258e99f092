"""Atomic files: a reader finds the whole new content, or the old one."""

import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from srptq_plugin.errors import ArgumentError, SrptqError

SPECIAL = "is not a regular file; give a file that may be replaced"


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
    if _is_special(path):
        raise SrptqError(f"{path}: {SPECIAL}")
    draft = path.with_name(f".{os.getpid()}.{path.name}")
    draft.unlink(missing_ok=True)  # writing to a leftover symbolic link would change the file that it points to
    try:
        yield draft
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def check_file(argument: str, path: Path) -> None:
    """Raise `ArgumentError` if a file cannot be written, so that a long run does not fail at its end.

    Args:
        argument: The name of the argument that gives the file.
        path: The file to write later.
    """
    if path.is_dir():
        raise ArgumentError(argument, "is a folder; give a file", path)
    if _is_special(path):
        raise ArgumentError(argument, SPECIAL, path)
    if not path.parent.is_dir():
        raise ArgumentError(argument, f"no folder {path.parent}; make it, or give a file elsewhere", path)
    if not os.access(path.parent, os.W_OK):
        raise ArgumentError(argument, f"{path.parent} cannot be written to; give a file elsewhere", path)


def _is_special(path: Path) -> bool:
    """Return whether the path is a device or a pipe, which a draft would replace."""
    return path.exists() and not path.is_file()
