"""The arguments of a family of networks: defaults, what the weights say, and what the user says."""

from collections.abc import Mapping
from typing import Any

from srptq_plugin.errors import SrptqError, UnknownNameError
from srptq_plugin.models.model_record import Arguments

Numbers = Mapping[str, int | float]


def settle(family: str, defaults: Numbers, seen: Numbers, given: Arguments) -> dict[str, int | float]:
    """Merge; what the user gives may not contradict the weights.

    >>> settle("edsr", {"upscale": 4, "residual_scale": 1.0}, {"upscale": 2}, {"residual_scale": "0.1"})
    {'upscale': 2, 'residual_scale': 0.1}
    """
    for name in given:
        if name not in defaults:
            raise UnknownNameError(f"{family} argument", name, defaults)
    asked = {name: _number(family, name, value, defaults[name]) for name, value in given.items()}
    for name in asked.keys() & seen.keys():
        if asked[name] != seen[name]:
            raise SrptqError(f"{family}: {name}={asked[name]} was given, but the weights have {seen[name]}")
    return {**defaults, **seen, **asked}


def _number(family: str, name: str, value: Any, default: float) -> int | float:
    kind = type(default)
    try:
        number = None if isinstance(value, bool) else kind(value)
    except (TypeError, ValueError, OverflowError):
        number = None
    if number is None or number <= 0 or float(value) != number:
        raise SrptqError(f"{family}: {name}={value}; give {name} as a positive {kind.__name__}")
    return number
