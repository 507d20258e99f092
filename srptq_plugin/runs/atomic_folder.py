"""Changing a folder as one: a lock against other processes, and a commit that survives a kill."""

import errno
import os
import shutil
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from pathlib import Path

from srptq_plugin.errors import SrptqError
from srptq_plugin.runs.run_record import is_name

try:
    import fcntl
except ImportError:  # Windows, where nothing keeps two processes apart
    fcntl = None

DRAFT, COMMITTED = ".draft-", ".committed"
STALE = ".stale"
"""Names of the files to remove when a commit completes, one a line."""
REFUSALS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}
LEAST = 2**16
"""Bytes that are free on a disk that is not full."""


@contextmanager
def locked(folder: Path, *, wait: bool = False) -> Generator[None]:
    """Hold a folder. The system releases it when a process dies, and no file is left.

    Raises:
        SrptqError: Another process holds it, and `wait` is false.
    """
    if fcntl is None:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        _lock(descriptor, folder, wait=wait)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, folder: Path, *, wait: bool) -> None:
    if fcntl is None:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError as error:
        raise SrptqError(f"{folder}: another process writes there; wait for it, or give another folder") from error
    except OSError:  # a file system without locks, as some of networks
        return


def commit(draft: Path, folder: Path, old: Iterable[str], last: str) -> None:
    """Let a draft's files replace the old files of a folder, the file `last` in the end.

    The rename decides. Killed before it, a process leaves the folder as it was. After it, `complete` does the rest.
    """
    stale = sorted(set(old) - {path.name for path in draft.iterdir()})
    (draft / STALE).write_text("\n".join(stale), encoding="utf-8")
    draft.rename(folder / COMMITTED)
    _move(folder, last)


def complete(folder: Path, last: str) -> None:
    """Complete what a process committed that was killed meanwhile."""
    if not _is_committed(folder):
        return
    try:
        with locked(folder, wait=True):
            _move(folder, last)
    except OSError as error:
        reason = error.strerror or "a damaged file"
        raise SrptqError(f"{folder}: a run there is half replaced and cannot be completed ({reason})") from error


def _move(folder: Path, last: str) -> None:
    """Move the files of a commit in, any number of times: one that moved is in neither list."""
    if not _is_committed(folder):
        return
    committed = folder / COMMITTED
    stale = (committed / STALE).read_text(encoding="utf-8").splitlines() if (committed / STALE).is_file() else []
    for name in filter(is_name, stale):
        (folder / name).unlink(missing_ok=True)
    new = [path for path in committed.iterdir() if path.name != STALE]
    for path in sorted(new, key=lambda path: path.name == last):
        path.replace(folder / path.name)
    shutil.rmtree(committed)


def _is_committed(folder: Path) -> bool:
    """Whether a commit is there. A link, to files of somebody else, is none."""
    return (folder / COMMITTED).is_dir() and not (folder / COMMITTED).is_symlink()


def tidy(folder: Path, last: str) -> None:
    """Complete or remove what killed processes left in a folder that is held."""
    _move(folder, last)
    for draft in folder.glob(f"{DRAFT}*"):
        if not draft.is_symlink():
            shutil.rmtree(draft, ignore_errors=True)


@contextmanager
def writing(name: str, folder: Path) -> Generator[None]:
    """Refuse a full or read-only disk by name, whoever meets it: torch and safetensors raise errors of their own."""
    try:
        yield
    except SrptqError:
        raise
    except Exception as error:
        number = error.errno if isinstance(error, OSError) and _is_in(error.filename, folder) else None
        if number not in REFUSALS and shutil.disk_usage(folder).free >= LEAST:
            raise
        reason = os.strerror(number or errno.ENOSPC)
        raise SrptqError(f"{name}: cannot be written ({reason}); make room, or give another folder") from error


def _is_in(path: object, folder: Path) -> bool:
    """Whether an error is about a file of a folder. What writes to an open file does not say."""
    return path is None or str(path).startswith(str(folder))
