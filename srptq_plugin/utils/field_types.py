"""Types of options with checks, and messages that say what a wrong value should be."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Annotated, Any, cast

from pydantic import AfterValidator, BeforeValidator
from pydantic_core import ErrorDetails

from srptq_plugin.errors import short

LARGEST = 2**63 - 1


@dataclass(frozen=True)
class Allowed:
    """A check of a value, and the words for what it allows.

    >>> Allowed("an even number", lambda value: value in range(0, 10, 2))(4)
    4
    """

    words: str
    holds: Callable[[object], bool]

    def __call__(self, value: object) -> object:
        """Return the value if it passes. Raise ValueError with the words otherwise."""
        if not self.holds(value):
            raise ValueError(self.words)
        return value


def whole(low: int, high: int) -> BeforeValidator:
    """Make a check for a whole number in a range. A bool, text or 8.0 does not pass."""
    words = f"a whole number from {low} to {high}"
    return BeforeValidator(Allowed(words, lambda value: type(value) is int and low <= value <= high))


def is_real(value: object) -> bool:
    """Tell whether a value is a finite number of 0 or more, and no bool."""
    return not isinstance(value, bool) and isinstance(value, int | float) and 0 <= value <= LARGEST


def _is_share(value: object) -> bool:
    return is_real(value) and cast("float", value) < 1


def _is_fraction(value: object) -> bool:
    return is_real(value) and cast("float", value) <= 1


def _is_word(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip()) and is_writable(value)


def is_writable(text: str) -> bool:
    """Tell whether UTF-8 can hold a text. It cannot hold half of a surrogate pair."""
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


def _is_all_plain(value: object) -> bool:
    items = _items(value)
    return bool(items or _is_plain(value)) and all(map(_is_all_plain, items))


def _items(value: object) -> list[object]:
    if isinstance(value, Mapping):
        pairs = cast("Mapping[object, object]", value)
        return [*map(_WORD, pairs), *pairs.values()]
    return cast("list[object]", value) if isinstance(value, list) else []


def _is_plain(value: object) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, str):
        return is_writable(value)
    small = not isinstance(value, int) or abs(value) <= LARGEST
    return small and (value is None or isinstance(value, int | list | dict))


_WORD = Allowed("text, in quotes where YAML reads it as something else", _is_word)
_PLAIN = Allowed("numbers, text, true, false, null, or lists and mappings of them", _is_all_plain)
Bits = Annotated[int, whole(1, 16)]
Count = Annotated[int, whole(1, 1_000_000)]
Seed = Annotated[int, whole(0, 2**32 - 1)]
Scale = Annotated[int, whole(1, 16)]
Real = Annotated[float, BeforeValidator(Allowed("a number of 0 or more", is_real))]
Share = Annotated[float, BeforeValidator(Allowed("a number of 0 or more and less than 1", _is_share))]
Fraction = Annotated[float, BeforeValidator(Allowed("a number from 0 to 1", _is_fraction))]
Flag = Annotated[bool, BeforeValidator(Allowed("true or false", lambda value: isinstance(value, bool)))]
Word = Annotated[str, BeforeValidator(_WORD)]
Plain = Annotated[Any, AfterValidator(_PLAIN)]


def shown(value: object) -> str:
    """Format a value for a message, cut short.

    >>> shown("x" * 100)
    "'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx..."
    """
    try:
        text = "null" if value is None else repr(value)
    except (ValueError, RecursionError):
        return f"a huge {type(value).__name__}"
    return short(text)


def key_of(error: ErrorDetails) -> str:
    """Return the dotted key that an error is about.

    >>> key_of({"type": "missing", "loc": ("stages", "hed", "[key]"), "msg": "", "input": None})
    'stages.hed'
    """
    return short(".".join(str(part) for part in error["loc"] if part != "[key]"))


def problem(error: ErrorDetails, keys: Iterable[str]) -> str:
    """Describe the mistake in a value, and what would be right."""
    if error["type"] == "extra_forbidden":
        return _unknown(str(error["loc"][-1]), sorted(keys))
    if error["type"] == "missing":
        return "missing; this key is needed"
    return f"{shown(error['input'])} is not allowed; {_right(error, keys)}"


def _unknown(key: str, keys: list[str]) -> str:
    if not keys:
        return "unknown key; there are none here"
    near = get_close_matches(key, keys, 1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"unknown key; {hint}keys: {', '.join(keys)}"


def _right(error: ErrorDetails, keys: Iterable[str]) -> str:
    context = error.get("ctx", {})
    if error["type"] in ("value_error", "literal_error"):
        return f"give {context.get('error') or context['expected']}"
    known = {
        "tuple_type": "a list",
        "dict_type": "a mapping",
        "mapping_type": "a mapping",
        "model_type": f"a mapping of {', '.join(sorted(keys))}",
    }
    if error["type"] in known:
        return f"give {known[error['type']]}"
    # pydantic's own words, of types and fields that plugins declare: "Input should be greater than 0".
    return error["msg"].replace("Input should", "it should")
