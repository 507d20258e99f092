"""Parsers of option values. Each refuses bad text with an example of what would be right."""

import math
import re
from argparse import ArgumentTypeError
from pathlib import Path
from typing import Any

from srptq_plugin.errors import SrptqError

LARGEST_SCALE = 16
Size = tuple[int, int, int, int]
Range = tuple[float, float]
Pair = tuple[str, Any]


def input_size(text: str) -> Size:
    """Parse the static shape of the network's input.

    >>> input_size("1x3x270x480")
    (1, 3, 270, 480)
    """
    match = re.fullmatch(r"1x([13])x([1-9]\d{0,4})x([1-9]\d{0,4})", text)
    if not match:
        raise ArgumentTypeError(
            f"{text!r}; give 1 x 3 x height x width, such as 1x3x270x480, or 1 x 1 x height x width for Y"
        )
    channels, height, width = map(int, match.groups())
    return 1, channels, height, width


def input_range(text: str) -> Range:
    """Parse the network's input values for black and white.

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
    """Parse one argument of the network. Its value is YAML, as the values of `--set` are.

    >>> argument("bias=False"), argument("act=relu"), argument("windows=[8, 8]"), argument("size='915'")
    (('bias', False), ('act', 'relu'), ('windows', [8, 8]), ('size', '915'))
    """
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise ArgumentTypeError(f"{text!r}; give name=value, such as upscale=4")
    from srptq_plugin.recipes.recipe_files import parse  # noqa: PLC0415 - `--help` imports nothing

    try:
        return name, parse(value, name)
    except SrptqError as error:
        raise ArgumentTypeError(str(error)) from error


def scale(text: str) -> int:
    """Parse a factor to downscale photographs by.

    >>> scale("4")
    4
    """
    if re.fullmatch(r"\d{1,4}", text, re.ASCII) and 1 <= int(text) <= LARGEST_SCALE:
        return int(text)
    raise ArgumentTypeError(f"{text!r}; give a whole number from 1 to {LARGEST_SCALE}")


def count(text: str) -> int:
    """Parse a number of things, at least one.

    >>> count("8")
    8
    """
    if re.fullmatch(r"[1-9]\d{0,5}", text, re.ASCII):
        return int(text)
    raise ArgumentTypeError(f"{text!r}; give a whole number from 1")


def budget(text: str) -> tuple[str, float]:
    """Parse a budget: the measure that it limits, and the limit.

    >>> budget("bops=0.3")
    ('bops', 0.3)
    """
    measure, _, amount = text.partition("=")
    share = _real(amount)
    if measure not in ("size", "bops", "drop") or share is None or share <= 0:
        raise ArgumentTypeError(f"{text!r}; give size, bops or drop and how much, such as bops=0.3")
    return measure, share


def path(text: str) -> Path:
    """Parse a path and expand `~`, which shells do not expand in `--out=~/run`."""
    if not text.strip():
        raise ArgumentTypeError("the path is empty")
    return Path(text).expanduser()


def _real(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
