"""Files that are there whole, or as they were before."""

import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from srptq_plugin.errors import ArgumentError, SrptqError

SPECIAL = "is no regular file; give a file that may be replaced"


@contextmanager
def atomic_file(path: Path) -> Generator[Path]:
    """A draft to write to, which takes the file's place once it is written.

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
    draft.unlink(missing_ok=True)  # a link would be followed
    try:
        yield draft
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def check_file(argument: str, path: Path) -> None:
    """Refuse the file that an argument names if it cannot be written, before there is anything to lose."""
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
