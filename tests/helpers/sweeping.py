"""Running the command line on bad input, and judging what it did: an exit code, a message, and nothing left behind."""

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
Things = Mapping[str, tuple[int, ...]]


class Sweep:
    """A folder to work in, where every case is judged alike."""

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
        """Run a command; where it refuses, it names one of `names`, and where it does not, it makes these alone.

        `loud`: code of the user's may print.
        """
        before = self._things()
        result = run(*argv)
        self._check_things(before, self._things(), makes if result.code != 2 else ())
        judge(result, names, loud=loud)
        return result

    def _things(self) -> Things:
        return {str(each): _stamp(each) for each in sorted(self.folder.rglob("*"))}

    def _check_things(self, before: Things, after: Things, makes: Sequence[str]) -> None:
        made = [str(self.place / name) for name in makes]
        changed = {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
        others = {path for path in changed if not path.startswith(tuple(made))} if made else changed
        assert not {path for path in others if not Path(path).is_dir() or path not in before}


def run(*argv: str | Path) -> Result:
    """The command line in this process; what it does to the root logger is undone."""
    root, out, err = logging.getLogger(), StringIO(), StringIO()
    handlers, level = root.handlers[:], root.level
    with redirect_stdout(out), redirect_stderr(err), _torch_logs_to(err), _limited():
        code = main([str(each) for each in argv])
    root.handlers[:] = handlers
    root.setLevel(level)
    return Result(code, out.getvalue(), err.getvalue())


@contextmanager
def _torch_logs_to(stream: TextIO) -> Generator[None]:
    """Redirect torch's own log handlers, which hold on to the stderr of when torch was imported."""
    loggers = [logging.getLogger(name) for name in logging.root.manager.loggerDict if name.startswith("torch")]
    handlers = [each for logger in loggers for each in logger.handlers if type(each) is logging.StreamHandler]
    before = [handler.setStream(stream) for handler in handlers]
    try:
        yield
    finally:
        for handler, old in zip(handlers, before, strict=True):
            handler.setStream(old or sys.__stderr__)


@contextmanager
def _limited() -> Generator[None]:
    """What never ends, ends as an internal error; the clock counts only while we compute."""
    before = signal.signal(signal.SIGVTALRM, raising(TimeoutError("it hangs")))
    signal.setitimer(signal.ITIMER_VIRTUAL, MOST_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def judge(result: Result, names: Sequence[str] = (), *, loud: bool = False) -> None:
    """A promised exit code; a refusal is one message of few lines that names what is wrong."""
    assert result.code in PROMISED, result.err
    assert "Traceback" not in result.err
    assert not _odd(result.err), repr(result.err)
    assert not _odd(result.out), repr(result.out)
    lines = result.err.splitlines()
    assert loud or all(line.startswith(("srptq: ", "    ")) for line in lines), result.err
    told = [n for n, line in enumerate(lines) if line.startswith("srptq: error: ")]
    assert len(told) == (result.code == 2), result.err
    if told:
        _judge_refusal(result, lines[told[0] :], names)


def _judge_refusal(result: Result, lines: Sequence[str], names: Sequence[str]) -> None:
    message = "\n".join(lines)
    assert not result.out
    assert not names or any(name in message for name in names), message
    assert len(lines) <= MOST_LINES, message
    assert max(map(len, lines)) <= LONGEST, message
    assert lines[0].removeprefix("srptq: error: ").strip(" :"), message


def _odd(message: str) -> list[str]:
    """What would disturb a terminal."""
    return [each for each in message if each != "\n" and not each.isprintable()]


def _stamp(path: Path) -> tuple[int, ...]:
    found = os.lstat(path)
    return found.st_mode, found.st_ino, *(() if path.is_dir() else (found.st_size, found.st_mtime_ns))
