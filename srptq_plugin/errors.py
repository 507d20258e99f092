"""The errors that users meet, and helpers to word them.

A message names the problem, the place and the cure.
"""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches

MANY = 40
"""Up to so many choices are all listed."""
FEW = 8
"""How many choices are listed of more than `MANY`."""
MOST_LINES = 10
"""How many mistakes one message lists."""
LONGEST, LONGEST_VALUE = 300, 60
"""Characters shown of another program's message, and of a value in one of our messages."""


class SrptqError(Exception):
    """An error in the user's input. The command line prints the message and exits with 2.

    >>> raise SrptqError("a.png: not a readable image; give a PNG or JPEG file")
    Traceback (most recent call last):
    srptq_plugin.errors.SrptqError: a.png: not a readable image; give a PNG or JPEG file
    """


class ArgumentError(SrptqError):
    """An error in an argument of a Python function. The command line names its option in place of the argument.

    Other arguments go in backticks, so that the command line translates them as well.

    Args:
        argument: The argument's name.
        message: The problem and its cure.
        value: The refused value, where the message does not show it.

    >>> str(ArgumentError("overlap", "images run whole; give `tile` as well", 8))
    'overlap 8: images run whole; give `tile` as well'
    """

    def __init__(self, argument: str, message: str, value: object = None) -> None:
        self.argument = argument
        self.message = f": {message}" if value is None else f" {value}: {message}"
        super().__init__(f"{argument}{self.message}")


class UnknownNameError(SrptqError):
    """A name that is not registered. The message lists the choices, or the most similar of many.

    >>> str(UnknownNameError("target", "openvno", ["openvino", "onnxruntime"]))
    "unknown target 'openvno'; did you mean 'openvino'? choices: onnxruntime, openvino"
    """

    def __init__(self, kind: str, name: str, choices: Iterable[str]) -> None:
        known = sorted(choices)
        near = get_close_matches(name, known, 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        super().__init__(f"unknown {kind} {short(repr(name))}; {hint}choices: {_listed(name, known)}")


class NotInstalledError(SrptqError):
    """A required package that is not installed."""


class MissingExtraError(NotInstalledError):
    """A missing package that an extra of this one installs.

    >>> str(MissingExtraError("matplotlib", "plot"))
    "matplotlib is not installed; pip install 'srptq-plugin[plot]'"
    """

    def __init__(self, name: str, extra: str) -> None:
        super().__init__(f"{name} is not installed; pip install 'srptq-plugin[{extra}]'")


class MissingRuntimeError(NotInstalledError):
    """A missing runtime, with the command that installs it.

    >>> str(MissingRuntimeError("npu-runtime", "pip install npu-runtime"))
    'npu-runtime is not installed; pip install npu-runtime'
    """

    def __init__(self, name: str, install: str) -> None:
        super().__init__(f"{name} is not installed; {install}")


def first_line(error: BaseException) -> str:
    r"""Return the first line of another library's error, shortened. Return the error's type if it has no message.

    >>> first_line(ValueError("no number\nat line 3")), first_line(KeyError("scale")), first_line(AssertionError())
    ('no number', "KeyError: 'scale'", 'AssertionError')
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    # str(KeyError("scale")) is only the repr of the key, which says nothing without the type
    kind = f"{type(error).__name__}: " if isinstance(error, LookupError) else ""
    return f"{kind}{lines[0][:LONGEST]}"


def short(text: str, longest: int = LONGEST_VALUE) -> str:
    """Shorten text that is too long for a message.

    >>> short("x" * 100, 10)
    'xxxxxxx...'
    """
    return text if len(text) <= longest else text[: longest - 3] + "..."


def at_once(problems: Iterable[str]) -> str:
    """Join several problems into one message of one line each. Leave out duplicates, and all but the first lines.

    >>> at_once(f"key{number}: unknown" for number in range(12)).splitlines()[-2:]
    ['key9: unknown', 'and 2 more']
    """
    lines = list(dict.fromkeys(problems))
    more = [f"and {len(lines) - MOST_LINES} more"] if len(lines) > MOST_LINES else []
    return "\n".join([*lines[:MOST_LINES], *more])


def printable(message: str) -> str:
    r"""Escape characters that would control a terminal. File names may hold any.

    >>> printable("\x1b[2J.png: not a readable image\nfür heute")
    '\\x1b[2J.png: not a readable image\nfür heute'
    """
    return "".join(letter if letter.isprintable() or letter == "\n" else _escaped(letter) for letter in message)


def indent_lines(message: str) -> str:
    r"""Make a message printable, and indent every line after the first.

    >>> print(indent_lines("two mistakes\nhere and there"))
    two mistakes
        here and there
    """
    return printable(message).replace("\n", "\n    ")


def _escaped(letter: str) -> str:
    return letter.encode("unicode_escape", "surrogatepass").decode("ascii")


def _listed(name: str, known: Sequence[str]) -> str:
    """List all choices, or of many those that are most like the name.

    >>> _listed("12", [f"{number:02}" for number in range(50)])
    '12, 42, 41, 32, 31, 29, 28, 27 and 42 more'
    """
    if len(known) <= MANY:
        return ", ".join(known) or "none"
    return f"{', '.join(get_close_matches(name, known, FEW, cutoff=0))} and {len(known) - FEW} more"
