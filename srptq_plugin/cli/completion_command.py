"""The command `completion`, which prints a script for a shell."""

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from typing import Any

from srptq_plugin.cli import argument_types
from srptq_plugin.cli.console import Lines
from srptq_plugin.cli.parser import build_parser
from srptq_plugin.cli.result import Answer
from srptq_plugin.errors import MissingExtraError
from srptq_plugin.utils.progress import Progress


def completion(args: Namespace, _progress: Progress) -> Answer:
    """Print the script of a shell."""
    try:
        import shtab  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise MissingExtraError("shtab", "completion") from error
    parser = build_parser()
    for own in _parsers(parser):
        for action in own._actions:  # noqa: SLF001 - argparse has no public list
            if action.type is argument_types.path:
                action.complete = shtab.FILE  # pyright: ignore[reportAttributeAccessIssue] - shtab reads it
    script = shtab.complete(parser, shell=args.shell)
    return Answer({"shell": args.shell, "script": script}, [Lines(script.splitlines())])


def _parsers(parser: ArgumentParser) -> Iterator[ArgumentParser]:
    """Yield the parsers of all commands, which are the choices of the argument that names one."""
    commands: Any = next(action.choices for action in parser._actions if action.dest == "command")  # noqa: SLF001
    return iter(commands.values())
