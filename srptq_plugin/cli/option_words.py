"""Messages of the core, which name arguments of Python functions, in the words of the command line."""

import re

from srptq_plugin.cli.parser import option_names
from srptq_plugin.errors import ArgumentError

OTHER_NAMES = {"overrides": "set", "pairs": "data", "widths": "bits"}
"""Options whose names differ from the arguments that they set."""
_ARGUMENT = re.compile(r"`([a-z]+(?:_[a-z]+)*)(?:=([^`]*))?`")


def translate_error(error: BaseException) -> str:
    """Return an error's message with options in place of arguments.

    >>> translate_error(ArgumentError("overlap", "images run whole; give `tile` as well", 8))
    '--overlap 8: images run whole; give --tile as well'
    """
    if not isinstance(error, ArgumentError):
        return translate_hints(str(error))
    return translate_hints(f"`{error.argument}`{error.message}")


def translate_hints(message: str) -> str:
    """Return a message with options in place of the arguments in backticks. Leave other words in backticks.

    >>> translate_hints("continue with `resume=True`, or `input_size=1x3x8x8`; see `training`")
    'continue with --resume, or --input-size 1x3x8x8; see `training`'
    """
    known = option_names() if "`" in message else frozenset[str]()

    def option(match: re.Match[str]) -> str:
        argument, value = match.groups()
        name = OTHER_NAMES.get(argument, argument)
        if name not in known:
            return match[0]
        flag = f"--{name.replace('_', '-')}"
        return flag if value in (None, "True") else f"{flag} {value}"

    return _ARGUMENT.sub(option, message)
