"""The one error family: a message says what was wrong, where, and what would be right."""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches

MANY = 40
FEW = 8
"""How many choices are listed where there are many."""


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
        super().__init__(f"unknown {kind} {name!r}; {hint}choices: {_listed(name, known)}")


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


class MissingRuntimeError(MissingExtraError):
    """A runtime that is not installed.

    >>> str(MissingRuntimeError("openvino"))
    "openvino is not installed; pip install 'srptq-plugin[openvino]'"
    """

    def __init__(self, name: str) -> None:
        super().__init__(name, name)
