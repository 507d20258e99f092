"""Running the command line in tests, checking its refusals, and stand-ins for functions."""

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any, NoReturn

TINY = ("--set", "calibration.patches=4", "calibration.size=24", "reconstruction=null", "equalize=false")


@dataclass(frozen=True)
class Result:
    """An exit code and the printed text."""

    code: int
    out: str
    err: str


Srptq = Callable[..., Result]


@dataclass(frozen=True)
class Written:
    """A run folder, the output of the command that wrote it, and its summary."""

    folder: Path
    result: Result
    summary: Mapping[str, Any]


class Terminal(StringIO):
    """A stream that claims to be a terminal."""

    def isatty(self) -> bool:
        return True


def shell(*argv: str | Path, **options: Any) -> Result:
    """Run the command line in another process, with stdout buffered as most users have it."""
    command = [sys.executable, "-m", "srptq_plugin", *map(str, argv)]
    usual = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run(command, check=False, env=usual, **options)  # noqa: S603
    return Result(done.returncode, done.stdout or "", done.stderr or "")


def captured(*argv: str | Path) -> Result:
    """Run the command line in another process and capture both streams."""
    return shell(*argv, capture_output=True, text=True)


def refused(result: Result, *parts: str) -> None:
    """Check that a command refused: exit code 2, an empty stdout, and one message that contains all `parts`."""
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith("srptq: error: ")
    assert result.err.count("srptq: ") == 1
    assert "Traceback" not in result.err
    for part in parts:
        assert part in result.err


def raising(error: BaseException) -> Callable[..., NoReturn]:
    """Return a stand-in for a function that raises an error."""

    def fail(*_: object, **__: object) -> NoReturn:
        raise error

    return fail


def returning(value: object) -> Callable[..., Any]:
    """Return a stand-in for a function that returns a value."""

    def give(*_: object, **__: object) -> object:
        return value

    return give
