"""Running the command line on bad input, and checking its exit code, its message and the files it leaves."""

import logging
import os
import signal
import sys
import tempfile
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import TextIO

import pytest
import torch

from helpers import networks
from helpers.command_line import Result, raising
from srptq_plugin.cli import main

PROMISED = (0, 1, 2)
MOST_LINES = 12
MOST_SECONDS = 20
LONGEST = 1200
Snapshot = Mapping[str, tuple[int, ...]]
"""The state of each file and folder by its path."""


class Sweep:
    """A folder to work in, and a check that is the same for every case."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.place = folder / "place"
        scratch = folder / "scratch"
        self.place.mkdir()
        scratch.mkdir()
        patch.chdir(self.place)
        patch.setattr(tempfile, "tempdir", str(scratch))
        patch.setattr(torch.export, "load", networks.loaded)

    def __call__(
        self, *argv: str | Path, names: Sequence[str] = (), makes: Sequence[str] = (), loud: bool = False
    ) -> Result:
        """Run a command, check its result and return it.

        Args:
            argv: The arguments.
            names: A refusal has to contain one of these.
            makes: A command that does not refuse may write these files and folders only.
            loud: The user's code may print as well.
        """
        before = self._snapshot()
        result = run(*argv)
        self._check_files(before, self._snapshot(), makes if result.code != 2 else ())
        judge(result, names, loud=loud)
        return result

    def _snapshot(self) -> Snapshot:
        return {str(path): _stamp(path) for path in sorted(self.folder.rglob("*"))}

    def _check_files(self, before: Snapshot, after: Snapshot, makes: Sequence[str]) -> None:
        allowed = [str(self.place / name) for name in makes]
        changed = {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
        others = {path for path in changed if not path.startswith(tuple(allowed))} if allowed else changed
        # A folder may be replaced by another one, since its files are compared as well.
        assert not {path for path in others if not Path(path).is_dir() or path not in before}


def run(*argv: str | Path) -> Result:
    """Run the command line in this process, and restore the root logger afterwards."""
    root, out, err = logging.getLogger(), StringIO(), StringIO()
    handlers, level = root.handlers[:], root.level
    with redirect_stdout(out), redirect_stderr(err), _torch_logs_to(err), _limited():
        code = main([str(argument) for argument in argv])
    root.handlers[:] = handlers
    root.setLevel(level)
    return Result(code, out.getvalue(), err.getvalue())


@contextmanager
def _torch_logs_to(stream: TextIO) -> Generator[None]:
    """Redirect torch's own log handlers, which hold on to the stderr of when torch was imported."""
    loggers = [logging.getLogger(name) for name in logging.root.manager.loggerDict if name.startswith("torch")]
    handlers = [handler for logger in loggers for handler in logger.handlers if type(handler) is logging.StreamHandler]
    before = [handler.setStream(stream) for handler in handlers]
    try:
        yield
    finally:
        for handler, old in zip(handlers, before, strict=True):
            handler.setStream(old or sys.__stderr__)


@contextmanager
def _limited() -> Generator[None]:
    """Turn an endless computation into an internal error. The clock counts the time of this process only."""
    before = signal.signal(signal.SIGVTALRM, raising(TimeoutError("it hangs")))
    signal.setitimer(signal.ITIMER_VIRTUAL, MOST_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def judge(result: Result, names: Sequence[str] = (), *, loud: bool = False) -> None:
    """Check a result: the exit code is documented, and a refusal is one short message that contains one of `names`."""
    assert result.code in PROMISED, result.err
    assert "Traceback" not in result.err
    assert not _odd(result.err), repr(result.err)
    assert not _odd(result.out), repr(result.out)
    lines = result.err.splitlines()
    assert loud or all(line.startswith(("srptq: ", "    ")) for line in lines), result.err
    errors = [n for n, line in enumerate(lines) if line.startswith("srptq: error: ")]
    assert len(errors) == (result.code == 2), result.err
    if errors:
        _judge_refusal(result, lines[errors[0] :], names)


def _judge_refusal(result: Result, lines: Sequence[str], names: Sequence[str]) -> None:
    message = "\n".join(lines)
    assert not result.out
    assert not names or any(name in message for name in names), message
    assert len(lines) <= MOST_LINES, message
    assert max(map(len, lines)) <= LONGEST, message
    assert lines[0].removeprefix("srptq: error: ").strip(" :"), message


def _odd(message: str) -> list[str]:
    """List the characters that would disturb a terminal."""
    return [letter for letter in message if letter != "\n" and not letter.isprintable()]


def _stamp(path: Path) -> tuple[int, ...]:
    status = os.lstat(path)
    return status.st_mode, status.st_ino, *(() if path.is_dir() else (status.st_size, status.st_mtime_ns))
