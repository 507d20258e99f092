"""What long steps call to say how far they are."""

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how many steps are done, and how many there are."""


def quiet(_what: str, _done: int, _total: int) -> None:
    """The progress of those who watch nothing."""
