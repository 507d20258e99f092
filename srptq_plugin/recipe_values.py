"""The values that a recipe may hold, each refused with what would be right, and the messages about them."""

import math
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Annotated, Any, cast

from pydantic import AfterValidator, BeforeValidator
from pydantic_core import ErrorDetails

LARGEST = 2**63 - 1
LONGEST = 60


def whole(low: int, high: int) -> BeforeValidator:
    """A whole number in a range; neither a bool, nor text, nor 8.0."""

    def check(value: object) -> object:
        if type(value) is not int or not low <= value <= high:
            raise ValueError(f"a whole number from {low} to {high}")
        return value

    return BeforeValidator(check)


def _real(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= LARGEST:
        raise ValueError("a number of 0 or more")
    return value


def _flag(value: object) -> object:
    if not isinstance(value, bool):
        raise ValueError("true or false")  # noqa: TRY004 - pydantic collects ValueError only
    return value


def _word(value: object) -> object:
    if not (isinstance(value, str) and value.strip() and _is_writable(value)):
        raise ValueError("text, in quotes where YAML reads it as something else")
    return value


def _is_writable(text: str) -> bool:
    """Whether UTF-8 has it, which lacks halves of surrogate pairs."""
    return not any("\ud800" <= each <= "\udfff" for each in text)


def _plain(value: object) -> object:
    items = _items(value)
    if not (items or _is_plain(value)):
        raise ValueError("numbers, text, true, false, null, or lists and mappings of them")
    for item in items:
        _plain(item)
    return value


def _items(value: object) -> list[object]:
    if isinstance(value, Mapping):
        pairs = cast("Mapping[object, object]", value)
        return [*map(_word, pairs), *pairs.values()]
    return cast("list[object]", value) if isinstance(value, list) else []


def _is_plain(value: object) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, str):
        return _is_writable(value)
    small = not isinstance(value, int) or abs(value) <= LARGEST
    return small and (value is None or isinstance(value, int | list | dict))


Bits = Annotated[int, whole(1, 16)]
Count = Annotated[int, whole(1, 1_000_000)]
Real = Annotated[float, BeforeValidator(_real)]
Flag = Annotated[bool, BeforeValidator(_flag)]
Word = Annotated[str, BeforeValidator(_word)]
Plain = Annotated[Any, AfterValidator(_plain)]


def shown(value: object) -> str:
    """A value for a message, cut short.

    >>> shown("x" * 100)
    "'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx..."
    """
    try:
        text = "null" if value is None else repr(value)
    except (ValueError, RecursionError):
        return f"a huge {type(value).__name__}"
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."


def key_of(error: ErrorDetails) -> str:
    """The dotted key that an error is about.

    >>> key_of({"type": "missing", "loc": ("stages", "hed", "[key]"), "msg": "", "input": None})
    'stages.hed'
    """
    return ".".join(str(part) for part in error["loc"] if part != "[key]")


def problem(error: ErrorDetails, keys: Iterable[str]) -> str:
    """What was wrong with a value, and what would be right."""
    if error["type"] == "extra_forbidden":
        return _unknown(str(error["loc"][-1]), sorted(keys))
    if error["type"] == "missing":
        return "missing; this key is needed"
    return f"{shown(error['input'])} is not allowed; give {_right(error, keys)}"


def _unknown(key: str, keys: list[str]) -> str:
    near = get_close_matches(key, keys, 1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"unknown key; {hint}keys: {', '.join(keys)}"


def _right(error: ErrorDetails, keys: Iterable[str]) -> str:
    context = error.get("ctx", {})
    if error["type"] in ("value_error", "literal_error"):
        return str(context.get("error") or context["expected"])
    known = {
        "tuple_type": "a list",
        "dict_type": "a mapping",
        "mapping_type": "a mapping",
        "model_type": f"a mapping of {', '.join(sorted(keys))}",
    }
    return known.get(error["type"], error["msg"])
