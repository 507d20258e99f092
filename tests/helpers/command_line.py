"""Running the command line, for tests: what came out, and whether a mistake was told as it should be."""

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
    """An exit code and what was printed."""

    code: int
    out: str
    err: str


Srptq = Callable[..., Result]


@dataclass(frozen=True)
class Written:
    """A run folder, and what the program said when it made it."""

    folder: Path
    result: Result
    summary: Mapping[str, Any]


class Terminal(StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        """Yes."""
        return True


def shell(*argv: str | Path, **options: Any) -> Result:
    """Run in a process of its own, with stdout buffered as it is for most people."""
    command = [sys.executable, "-m", "srptq_plugin", *map(str, argv)]
    usual = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run(command, check=False, env=usual, **options)  # noqa: S603
    return Result(done.returncode, done.stdout or "", done.stderr or "")


def captured(*argv: str | Path) -> Result:
    """Run in a process of its own, with both streams captured."""
    return shell(*argv, capture_output=True, text=True)


def refused(result: Result, *parts: str) -> None:
    """The user's fault: 2, nothing on stdout, one message that says what."""
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith("srptq: error: ")
    assert result.err.count("srptq: ") == 1
    assert "Traceback" not in result.err
    for part in parts:
        assert part in result.err


def raising(error: BaseException) -> Callable[..., NoReturn]:
    """A stand-in that fails."""

    def fail(*_: object, **__: object) -> NoReturn:
        raise error

    return fail


def returning(value: object) -> Callable[..., Any]:
    """A stand-in that gives this."""

    def give(*_: object, **__: object) -> object:
        return value

    return give
