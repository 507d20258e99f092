"""Plans in words, for the log, errors and the screen."""

from collections.abc import Mapping
from typing import Any


def describe(plan: Mapping[str, Any]) -> str:
    """Say in a line what a plan gives for its drop.

    >>> describe({"left_float": ["tail/conv"], "bits": {}, "integer_macs": 0.91, "drop": 0.0312, "speedup": 2.5})
    '1 operation float, 91.0 % of multiplications in integers, drop 0.031 dB, 2.50 times as fast as float'
    """
    speed = [] if plan["speedup"] is None else [f"{plan['speedup']:.2f} times as fast as float"]
    share = f"{100 * plan['integer_macs']:.1f} % of multiplications in integers"
    return ", ".join([count_changes(plan), share, f"drop {plan['drop']:.3f} dB", *speed])


def count_changes(plan: Mapping[str, Any]) -> str:
    """Count what a plan changes of its recipe.

    >>> count_changes({"left_float": [], "bits": {"x": 16, "y": 16}}), count_changes({"left_float": [], "bits": {}})
    ('2 tensors with more bits', 'the recipe as it is')
    """
    counts = ((len(plan["left_float"]), "operation", "float"), (len(plan["bits"]), "tensor", "with more bits"))
    parts = [f"{count} {what}{'s' if count > 1 else ''} {how}" for count, what, how in counts if count]
    return ", ".join(parts) or "the recipe as it is"
