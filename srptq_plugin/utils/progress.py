"""The callback by which long steps report their progress."""

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""A callback that takes the name of the step, the steps done, and the total number of steps."""


def quiet(_what: str, _done: int, _total: int) -> None:
    """Ignore progress."""
