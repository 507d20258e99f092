"""The command line: arguments in, one answer on stdout, everything else on stderr, an exit code."""

import json
import os
import sys
from argparse import Namespace
from collections.abc import Generator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING

from srptq_plugin.cli.command import BY_NAME
from srptq_plugin.cli.option_words import translate_error
from srptq_plugin.cli.parser import USER_ERROR, parse
from srptq_plugin.cli.process_group import ProcessGroup, Terminated
from srptq_plugin.errors import SrptqError, indent_lines

if TYPE_CHECKING:
    from srptq_plugin.cli.result import Answer

INTERNAL_ERROR = 3
INTERRUPTED = 128 + 2
HUNG_UP = 128 + 13
TERMINATED = 128 + 15
"""The exit codes that a shell reports for a program ended by SIGINT, SIGPIPE or SIGTERM."""

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code. Never raise."""
    code = 0
    _reopen_closed_streams()
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
    group = ProcessGroup()
    try:
        arguments = parse(argv)
    except SystemExit as leaving:
        return int(leaving.code or 0)
    shared = BY_NAME[arguments.command].shared
    if group.rank and not shared:
        return 0
    try:
        with group.joined() if shared else nullcontext():
            return _run(arguments)
    except Terminated:
        if group.speaks():
            _complain("error: ended by the launcher, as another process was lost or all were stopped")
        return TERMINATED
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        raise
    except (SrptqError, SystemExit, Exception) as error:  # noqa: BLE001 - a traceback is no message
        return _explain(error, verbose=arguments.verbose) if group.speaks() else USER_ERROR


def _run(arguments: Namespace) -> int:
    _escape_unencodable()
    with _stdout_reserved():
        from srptq_plugin.cli.logs import configure  # noqa: PLC0415

        configure(verbose=arguments.verbose)
        answer = _answer(arguments)
    _print(answer, as_json=arguments.json)
    return answer.code


def _answer(arguments: Namespace) -> "Answer":
    from srptq_plugin.cli.progress_bar import Bars  # noqa: PLC0415 - `srptq --help` answers without it

    with Bars(sys.stderr) as progress:
        return BY_NAME[arguments.command].load()(arguments, progress)


def _print(answer: "Answer", *, as_json: bool) -> None:
    from srptq_plugin.cli.console import show  # noqa: PLC0415
    from srptq_plugin.cli.result import strict  # noqa: PLC0415

    if as_json:
        print(json.dumps(strict(answer.data), allow_nan=False))  # noqa: T201 - the answer
    else:
        show(answer.report, sys.stdout)


@contextmanager
def _stdout_reserved() -> Generator[None]:
    """Redirect stdout to stderr while a command runs. Plugins, networks and converters print."""
    sys.stdout.flush()
    # the descriptor too, not only sys.stdout: child processes and C++ libraries write to it
    stdout = os.dup(1)
    os.dup2(2, 1)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(stdout, 1)
        os.close(stdout)


def _reopen_closed_streams() -> None:
    """Replace a closed stdout or stderr by /dev/null.

    After `srptq ... >&-` Python's stream is None, and the next file that is opened would get the free descriptor.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115 - stays open until exit


def _escape_unencodable() -> None:
    """Escape characters that the locale cannot encode, such as a tick or a letter of a file name."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _explain(error: BaseException, *, verbose: bool) -> int:
    """Print one line about an error, with `verbose` after its traceback. Return the exit code."""
    if verbose:
        from traceback import print_exception  # noqa: PLC0415 - slow to import

        print_exception(error)
    message = _input_error(error)
    if message:
        _complain(f"error: {message}")
        return USER_ERROR
    hint = "" if verbose else " with the output of -v"
    _complain(f"internal error: {_brief(error)}; please report it{hint}")
    return INTERNAL_ERROR


def _input_error(error: BaseException) -> str:
    """Return the message for an error that the user can cure, or nothing for an internal error."""
    if isinstance(error, SrptqError):
        return translate_error(error)
    if isinstance(error, SystemExit):
        return f"the imported code ended the program (exit {error.code}); give code that can be imported"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'writing'}: {error.strerror}"
    out_of_memory = isinstance(error, MemoryError) or "OutOfMemory" in type(error).__name__
    return f"out of memory ({_brief(error)}); a smaller calibration.batch needs less" if out_of_memory else ""


def _brief(error: BaseException) -> str:
    lines = str(error).splitlines()
    return f"{type(error).__name__}{f': {lines[0][:300]}' if lines else ''}"


def _complain(message: str) -> None:
    print(f"srptq: {indent_lines(message)}", file=sys.stderr)  # noqa: T201


def _abandon(*descriptors: int) -> None:
    """Redirect descriptors to /dev/null, as the reader has gone or the disk is full.

    Otherwise Python's flush at exit would raise again.
    """
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for descriptor in descriptors:
        os.dup2(nowhere, descriptor)
    os.close(nowhere)
