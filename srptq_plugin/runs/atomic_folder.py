"""Atomic changes of a folder: a lock against other processes, and a commit that survives a kill."""

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
except ImportError:  # Windows, where two processes are not kept apart
    fcntl = None

DRAFT, COMMITTED = ".draft-", ".committed"
STALE = ".stale"
"""A file in a commit with the names of the files that it removes, one a line."""
REFUSALS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}
"""Errors of a disk that is full, read-only or broken."""
LEAST = 2**16
"""The free bytes below which a disk counts as full."""


@contextmanager
def locked(folder: Path, *, wait: bool = False) -> Generator[None]:
    """Hold an exclusive lock on a folder. The system releases it when the process dies, and no file is left.

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


def commit(draft: Path, folder: Path, old: Iterable[str], last: str) -> None:
    """Replace the files `old` of a folder by the files of a draft in it, and move the file `last` in the end.

    The rename decides. A process killed before it leaves the folder as it was. After it, `complete` does the rest.
    """
    stale = sorted(set(old) - {path.name for path in draft.iterdir()})
    (draft / STALE).write_text("\n".join(stale), encoding="utf-8")
    draft.rename(folder / COMMITTED)
    _move(folder, last)


def complete(folder: Path, last: str) -> None:
    """Finish the commit of a process that was killed, if there is one."""
    if not _is_committed(folder):
        return
    try:
        with locked(folder, wait=True):
            _move(folder, last)
    except OSError as error:
        reason = error.strerror or "a damaged file"
        raise SrptqError(
            f"{folder}: a run there is half replaced and cannot be completed ({reason}); give another folder"
        ) from error


def tidy(folder: Path, last: str) -> None:
    """Complete the commit and remove the drafts that killed processes left in a locked folder."""
    _move(folder, last)
    for draft in folder.glob(f"{DRAFT}*"):
        if not draft.is_symlink():
            shutil.rmtree(draft, ignore_errors=True)


@contextmanager
def writing(name: str, folder: Path) -> Generator[None]:
    """Turn the error of a full or read-only disk into an SrptqError that begins with `name`.

    torch and safetensors raise errors of their own kinds, so a disk without free space counts as the cause as well.
    """
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


def _lock(descriptor: int, folder: Path, *, wait: bool) -> None:
    if fcntl is None:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError as error:
        raise SrptqError(f"{folder}: another process writes there; wait for it, or give another folder") from error
    except OSError:  # some network file systems have no locks
        return


def _move(folder: Path, last: str) -> None:
    # Idempotent: a file that was moved is no longer in the commit, and is not stale. So a kill at any point is
    # followed by the same steps again, and `last` is there only when all others are.
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
    """Return True if a commit is there. A link does not count, as it may lead to somebody else's files."""
    return (folder / COMMITTED).is_dir() and not (folder / COMMITTED).is_symlink()


def _is_in(path: object, folder: Path) -> bool:
    """Return True if an error concerns a file in a folder. Errors of writing to an open file name none."""
    return path is None or str(path).startswith(str(folder))
