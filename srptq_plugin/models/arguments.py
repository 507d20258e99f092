"""The arguments of a family of networks: defaults, sizes read from the weights, and the caller's choice."""

from collections.abc import Mapping
from typing import Any

from srptq_plugin.errors import SrptqError, UnknownNameError
from srptq_plugin.models.model_record import Arguments

Numbers = Mapping[str, int | float]


def settle(family: str, defaults: Numbers, from_weights: Numbers, arguments: Arguments) -> dict[str, int | float]:
    """Merge three sources of arguments, the later over the earlier, and return one number per default.

    >>> settle("edsr", {"upscale": 4, "residual_scale": 1.0}, {"upscale": 2}, {"residual_scale": "0.1"})
    {'upscale': 2, 'residual_scale': 0.1}

    Args:
        family: The name that errors show.
        defaults: All arguments that the family takes. Their types decide how text is read.
        from_weights: Sizes read from a checkpoint.
        arguments: The caller's choice, as numbers or text. It may not contradict the weights.
    """
    for name in arguments:
        if name not in defaults:
            raise UnknownNameError(f"{family} argument", name, defaults)
    numbers = {name: _number(family, name, value, defaults[name]) for name, value in arguments.items()}
    for name in numbers.keys() & from_weights.keys():
        if numbers[name] != from_weights[name]:
            raise SrptqError(
                f"{family}: {name}={numbers[name]} was given, but the weights have {from_weights[name]}; leave it out"
            )
    return {**defaults, **from_weights, **numbers}


def _number(family: str, name: str, value: Any, default: float) -> int | float:
    kind = type(default)
    try:
        number = None if isinstance(value, bool) else kind(value)
    except (TypeError, ValueError, OverflowError):
        number = None
    # The comparison with float(value) refuses 2.5 where an int is due, which int() would truncate.
    if number is None or number <= 0 or float(value) != number:
        raise SrptqError(f"{family}: {name}={value}; give {name} as a positive {kind.__name__}")
    return number
