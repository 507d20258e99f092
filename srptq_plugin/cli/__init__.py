"""The command line: arguments in, one answer on stdout, everything else on stderr, an exit code."""

import json
import os
import sys
from argparse import Namespace
from collections.abc import Generator, Sequence
from contextlib import contextmanager, redirect_stdout
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING

from srptq_plugin.cli.parser import USER_ERROR, parse
from srptq_plugin.errors import SrptqError, told

if TYPE_CHECKING:
    from srptq_plugin.cli.result import Answer

INTERNAL_ERROR = 3
INTERRUPTED = 128 + 2
HUNG_UP = 128 + 13
"""What a shell reports for a program that SIGINT, or SIGPIPE, ended."""

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code and never raises."""
    code = 0
    _open_what_is_closed()
    try:
        code = _guarded(argv)
        sys.stdout.flush()
        sys.stderr.flush()
    except BrokenPipeError:
        _abandon(1, 2)
        return HUNG_UP
    except OSError as error:
        _abandon(1)
        return code or _explain(error, verbose=False)
    return code


def _guarded(argv: Sequence[str] | None) -> int:
    try:
        arguments = parse(argv)
    except SystemExit as leaving:
        return int(leaving.code or 0)
    try:
        return _run(arguments)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        raise
    except (SrptqError, SystemExit, Exception) as error:  # noqa: BLE001 - a traceback is no message
        return _explain(error, verbose=arguments.verbose)


def _run(arguments: Namespace) -> int:
    _never_fail_to_encode()
    with _stdout_kept_free():
        from srptq_plugin.cli.logs import configure  # noqa: PLC0415

        configure(verbose=arguments.verbose)
        answer = _answer(arguments)
    _print(answer, as_json=arguments.json)
    return answer.code


def _answer(arguments: Namespace) -> "Answer":
    from srptq_plugin.cli.progress_bar import Bars  # noqa: PLC0415 - `srptq --help` answers without it

    with Bars(sys.stderr) as progress:
        from srptq_plugin.cli.commands import COMMANDS  # noqa: PLC0415 - loads torch

        return COMMANDS[arguments.command](arguments, progress)


def _print(answer: "Answer", *, as_json: bool) -> None:
    from srptq_plugin.cli.console import show  # noqa: PLC0415
    from srptq_plugin.cli.result import strict  # noqa: PLC0415

    if as_json:
        print(json.dumps(strict(answer.data), allow_nan=False))  # noqa: T201 - the answer
    else:
        show(answer.report, sys.stdout)


@contextmanager
def _stdout_kept_free() -> Generator[None]:
    """What plugins, networks and converters print goes to stderr: stdout is for the answer."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def _open_what_is_closed() -> None:
    """`srptq ... >&-` leaves Python without a stdout; the descriptor that is free is taken again."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115 - for as long as we run


def _never_fail_to_encode() -> None:
    """A tick, or the name of a file, must not end the program in an odd locale."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _explain(error: BaseException, *, verbose: bool) -> int:
    """One line about an error; the traceback only on demand."""
    if verbose:
        from traceback import print_exception  # noqa: PLC0415 - slow to import

        print_exception(error)
    message = _users_fault(error)
    if message:
        _complain(f"error: {message}")
        return USER_ERROR
    hint = "" if verbose else " with what -v shows"
    _complain(f"internal error: {_brief(error)}; please report it{hint}")
    return INTERNAL_ERROR


def _users_fault(error: BaseException) -> str:
    if isinstance(error, SrptqError):
        return str(error)
    if isinstance(error, SystemExit):
        return f"the code that was loaded ended the program (exit {error.code}); give code that can be imported"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'writing'}: {error.strerror}"
    out_of_memory = isinstance(error, MemoryError) or "OutOfMemory" in type(error).__name__
    return f"out of memory ({_brief(error)}); a smaller calibration.batch needs less" if out_of_memory else ""


def _brief(error: BaseException) -> str:
    lines = str(error).splitlines()
    return f"{type(error).__name__}{f': {lines[0][:300]}' if lines else ''}"


def _complain(message: str) -> None:
    print(f"srptq: {told(message)}", file=sys.stderr)  # noqa: T201


def _abandon(*descriptors: int) -> None:
    """Whoever read our output has gone, or it does not fit; let the flush at exit go nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for descriptor in descriptors:
        os.dup2(nowhere, descriptor)
    os.close(nowhere)
