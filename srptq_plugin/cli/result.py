"""The answer of a command: data for scripts, a report for people, an exit code."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from srptq_plugin.cli.console import Block

DONE, CHECK_FAILED = 0, 1


@dataclass(frozen=True)
class Answer:
    """The same facts twice: `data` for `--json`, `report` for the screen."""

    data: Mapping[str, Any]
    report: Sequence[Block]
    code: int = DONE


def strict(value: Any) -> Any:
    """Convert a value to standard JSON, which has no NaN, infinity, set or path.

    >>> strict({"psnr": float("inf"), "bits": frozenset({8, 4})})
    {'psnr': None, 'bits': [4, 8]}
    """
    if isinstance(value, Mapping):
        return {str(key): strict(item) for key, item in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(map(strict, value))
    if isinstance(value, list | tuple):
        return [strict(item) for item in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)
