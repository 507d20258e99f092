"""The one error family: a message says what was wrong, where, and what would be right."""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches

MANY = 40
FEW = 8
"""How many choices are listed where there are many."""
MOST_LINES = 10
"""Mistakes that are told at once."""
LONGEST, LONGEST_VALUE = 300, 60
"""Letters of a message that others wrote, and of a value in one of ours."""


class SrptqError(Exception):
    """The user's input is at fault; the command line prints the message and exits with 2.

    >>> raise SrptqError("images: no folder 'lr'; give a folder of PNG or JPEG files")
    Traceback (most recent call last):
    srptq_plugin.errors.SrptqError: images: no folder 'lr'; give a folder of PNG or JPEG files
    """


class UnknownNameError(SrptqError):
    """A name that nothing answers to; lists the choices, of many those that are most alike.

    >>> str(UnknownNameError("target", "openvno", ["openvino", "onnxruntime"]))
    "unknown target 'openvno'; did you mean 'openvino'? choices: onnxruntime, openvino"
    """

    def __init__(self, kind: str, name: str, choices: Iterable[str]) -> None:
        known = sorted(choices)
        near = get_close_matches(name, known, 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        super().__init__(f"unknown {kind} {short(repr(name))}; {hint}choices: {_listed(name, known)}")


def _listed(name: str, known: Sequence[str]) -> str:
    """All, or of many those that are most alike.

    >>> _listed("12", [f"{number:02}" for number in range(50)])
    '12, 42, 41, 32, 31, 29, 28, 27 and 42 more'
    """
    if len(known) <= MANY:
        return ", ".join(known) or "none"
    return f"{', '.join(get_close_matches(name, known, FEW, cutoff=0))} and {len(known) - FEW} more"


class NotInstalledError(SrptqError):
    """A package that would be needed."""


class MissingExtraError(NotInstalledError):
    """A package that is not installed; an extra of this one brings it.

    >>> str(MissingExtraError("matplotlib", "plot"))
    "matplotlib is not installed; pip install 'srptq-plugin[plot]'"
    """

    def __init__(self, name: str, extra: str) -> None:
        super().__init__(f"{name} is not installed; pip install 'srptq-plugin[{extra}]'")


class MissingRuntimeError(NotInstalledError):
    """A runtime that is not installed, and the command that installs it.

    >>> str(MissingRuntimeError("npu-runtime", "pip install npu-runtime"))
    'npu-runtime is not installed; pip install npu-runtime'
    """

    def __init__(self, name: str, install: str) -> None:
        super().__init__(f"{name} is not installed; {install}")


def first_line(error: BaseException) -> str:
    r"""What an error of others says, in one line of a bearable length; its kind where it says nothing.

    >>> first_line(ValueError("no number\nat line 3")), first_line(KeyError("scale")), first_line(AssertionError())
    ('no number', "KeyError: 'scale'", 'AssertionError')
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    return f"{f'{type(error).__name__}: ' if isinstance(error, LookupError) else ''}{lines[0][:LONGEST]}"


def short(text: str, longest: int = LONGEST_VALUE) -> str:
    """The beginning of what is too long for a message.

    >>> short("x" * 100, 10)
    'xxxxxxx...'
    """
    return text if len(text) <= longest else text[: longest - 3] + "..."


def at_once(problems: Iterable[str]) -> str:
    """Several mistakes, a line each, of many the first.

    >>> at_once(f"key{number}: unknown" for number in range(12)).splitlines()[-2:]
    ['key9: unknown', 'and 2 more']
    """
    lines = list(dict.fromkeys(problems))
    more = [f"and {len(lines) - MOST_LINES} more"] if len(lines) > MOST_LINES else []
    return "\n".join([*lines[:MOST_LINES], *more])


def printable(message: str) -> str:
    r"""A message that leaves a terminal as it is, whatever a file is called.

    >>> printable("\x1b[2J.png: not a readable image\nfür heute")
    '\\x1b[2J.png: not a readable image\nfür heute'
    """
    return "".join(each if each.isprintable() or each == "\n" else _escaped(each) for each in message)


def told(message: str) -> str:
    r"""A message as the screen shows it, its further lines under the first.

    >>> print(told("two mistakes\nhere and there"))
    two mistakes
        here and there
    """
    return printable(message).replace("\n", "\n    ")


def _escaped(letter: str) -> str:
    return letter.encode("unicode_escape", "surrogatepass").decode("ascii")
