"""The values that options take; what cannot be read is refused with what would be right."""

import math
import re
from argparse import ArgumentTypeError
from pathlib import Path

LARGEST_SCALE = 16
Size = tuple[int, int, int, int]
Range = tuple[float, float]
Pair = tuple[str, str | int | float]


def input_size(text: str) -> Size:
    """A static shape of the network's input.

    >>> input_size("1x3x270x480")
    (1, 3, 270, 480)
    """
    found = re.fullmatch(r"1x3x([1-9]\d{0,4})x([1-9]\d{0,4})", text)
    if not found:
        raise ArgumentTypeError(f"{text!r}; give 1 x 3 x height x width, such as 1x3x270x480")
    height, width = map(int, found.groups())
    return 1, 3, height, width


def input_range(text: str) -> Range:
    """What black and white are at the network's input.

    >>> input_range("0:255")
    (0.0, 255.0)
    """
    ends = [_real(end) for end in text.split(":")]
    if len(ends) == 2:  # noqa: PLR2004 - black and white
        low, high = ends
        if low is not None and high is not None and low < high:
            return low, high
    raise ArgumentTypeError(f"{text!r}; give black:white, such as 0:1 or 0:255")


def argument(text: str) -> Pair:
    """One argument of the network; numbers become numbers.

    >>> argument("upscale=4"), argument("residual_scale=0.1"), argument("act=relu")
    (('upscale', 4), ('residual_scale', 0.1), ('act', 'relu'))
    """
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise ArgumentTypeError(f"{text!r}; give name=value, such as upscale=4")
    return name, _plain(value)


def scale(text: str) -> int:
    """A factor to make photographs smaller by.

    >>> scale("4")
    4
    """
    if re.fullmatch(r"\d{1,4}", text, re.ASCII) and 1 <= int(text) <= LARGEST_SCALE:
        return int(text)
    raise ArgumentTypeError(f"{text!r}; give a whole number from 1 to {LARGEST_SCALE}")


def count(text: str) -> int:
    """How many; one at least.

    >>> count("8")
    8
    """
    if re.fullmatch(r"[1-9]\d{0,5}", text, re.ASCII):
        return int(text)
    raise ArgumentTypeError(f"{text!r}; give a whole number from 1")


def budget(text: str) -> tuple[str, float]:
    """What may be spent, and how much of it.

    >>> budget("bops=0.3")
    ('bops', 0.3)
    """
    measure, _, amount = text.partition("=")
    share = _real(amount)
    if measure not in ("size", "bops", "drop") or share is None or share <= 0:
        raise ArgumentTypeError(f"{text!r}; give size, bops or drop and how much, such as bops=0.3")
    return measure, share


def path(text: str) -> Path:
    """A path, `~` expanded; shells leave it alone in `--out=~/run`."""
    if not text.strip():
        raise ArgumentTypeError("the path is empty")
    return Path(text).expanduser()


def _plain(value: str) -> str | int | float:
    if value in ("true", "false"):
        return value == "true"
    if re.fullmatch(r"[-+]?\d{1,18}", value, re.ASCII):
        return int(value)
    real = _real(value)
    return value if real is None else real


def _real(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
