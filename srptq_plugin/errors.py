"""The one error family: a message says what was wrong, where, and what would be right."""

from collections.abc import Iterable
from difflib import get_close_matches


class SrptqError(Exception):
    """The user's input is at fault; the command line prints the message and exits with 2.

    >>> raise SrptqError("images: no folder 'lr'; give a folder of PNG or JPEG files")
    Traceback (most recent call last):
    srptq_plugin.errors.SrptqError: images: no folder 'lr'; give a folder of PNG or JPEG files
    """


class UnknownNameError(SrptqError):
    """A name that nothing answers to; lists the choices.

    >>> str(UnknownNameError("target", "openvno", ["openvino", "onnxruntime"]))
    "unknown target 'openvno'; did you mean 'openvino'? choices: onnxruntime, openvino"
    """

    def __init__(self, kind: str, name: str, choices: Iterable[str]) -> None:
        known = sorted(choices)
        near = get_close_matches(name, known, 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        super().__init__(f"unknown {kind} {name!r}; {hint}choices: {', '.join(known) or 'none'}")


class NotInstalledError(SrptqError):
    """A package that would be needed."""


class MissingRuntimeError(NotInstalledError):
    """A runtime that is not installed.

    >>> str(MissingRuntimeError("openvino"))
    "openvino is not installed; pip install 'srptq-plugin[openvino]'"
    """

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} is not installed; pip install 'srptq-plugin[{name}]'")
