"""Files that are there whole, or as they were before."""

import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from srptq_plugin.errors import SrptqError


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
    _refuse_special(str(path), path)
    draft = path.with_name(f".{os.getpid()}.{path.name}")
    draft.unlink(missing_ok=True)  # a link would be followed
    try:
        yield draft
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def check_file(option: str, path: Path) -> None:
    """Refuse a file that could not be written, before there is anything to lose."""
    if path.is_dir():
        raise SrptqError(f"{option} {path}: is a folder; give a file")
    _refuse_special(f"{option} {path}", path)
    if not path.parent.is_dir():
        raise SrptqError(f"{option} {path}: no folder {path.parent}; make it, or give a file elsewhere")
    if not os.access(path.parent, os.W_OK):
        raise SrptqError(f"{option} {path}: {path.parent} cannot be written to; give a file elsewhere")


def _refuse_special(name: str, path: Path) -> None:
    """A draft would take the place of a device, or of a pipe."""
    if path.exists() and not path.is_file():
        raise SrptqError(f"{name}: is no regular file; give a file that may be replaced")
