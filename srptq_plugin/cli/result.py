"""What a command answers: the data for scripts, the report for people, the exit code."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from srptq_plugin.cli.console import Block

DONE, CHECK_FAILED = 0, 1


@dataclass(frozen=True)
class Answer:
    """The same facts twice, once for `--json` and once for the screen."""

    data: Mapping[str, Any]
    report: Sequence[Block]
    code: int = DONE


def strict(value: Any) -> Any:
    """A value that JSON has: no NaN, no infinity, no sets or paths.

    >>> strict({"psnr": float("inf"), "bits": frozenset({8, 4})})
    {'psnr': None, 'bits': [4, 8]}
    """
    if isinstance(value, Mapping):
        return {str(key): strict(each) for key, each in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(map(strict, value))
    if isinstance(value, list | tuple):
        return [strict(each) for each in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)
