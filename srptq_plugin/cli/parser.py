"""The parser of the command line."""

import sys
from argparse import SUPPRESS, ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Sequence
from typing import NoReturn

from srptq_plugin import __version__
from srptq_plugin.cli.command import COMMANDS
from srptq_plugin.cli.help_texts import ABOUT, EPILOG
from srptq_plugin.errors import indent_lines

USER_ERROR = 2
LOG = "log progress to stderr"


class Parser(ArgumentParser):
    """A parser whose errors look like all others: one line, exit code 2."""

    def error(self, message: str) -> NoReturn:
        """Print the message and exit with 2."""
        self.exit(USER_ERROR, f"srptq: error: {indent_lines(message)}; see {self.prog} --help\n")

    @property
    def options(self) -> frozenset[str]:
        """The options without `--`, with underscores, as in the parsed namespace."""
        return frozenset(action.dest for action in self._actions if action.option_strings)


def parse(argv: Sequence[str] | None) -> Namespace:
    """Parse a command line. Raise SystemExit after `--help`, `--version` or a mistake."""
    parser = build_parser()
    arguments = parser.parse_args(argv)
    if arguments.command is None:
        parser.print_help(sys.stderr)
        parser.exit(USER_ERROR)
    return arguments


def option_names() -> frozenset[str]:
    """Return the names of all options of all commands, as `Parser.options` has them."""
    parsers = [Parser(add_help=False) for _ in COMMANDS]
    for command, parser in zip(COMMANDS, parsers, strict=True):
        command.add_options(parser)
    return frozenset().union(*(parser.options for parser in parsers))


def build_parser() -> ArgumentParser:
    """Build the parser of all commands."""
    parser = Parser(
        "srptq",
        description=ABOUT,
        epilog=EPILOG,
        formatter_class=RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"srptq {__version__}")
    parser.add_argument("-v", "--verbose", action="store_true", help=LOG)
    parser.set_defaults(command=None)
    common = _common()
    subparsers = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND")
    for command in COMMANDS:
        subparser = subparsers.add_parser(
            command.name,
            help=command.summary,
            description=command.description,
            parents=[common],
            formatter_class=RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        command.add_options(subparser)
    return parser


def _common() -> Parser:
    """Return the options that every command has."""
    common = Parser(add_help=False)
    common.add_argument("--json", action="store_true", help="print one JSON object on stdout, nothing else")
    # SUPPRESS: a default of False here would overwrite the -v of `srptq -v quantize`
    common.add_argument("-v", "--verbose", action="store_true", default=SUPPRESS, help=LOG)
    return common
