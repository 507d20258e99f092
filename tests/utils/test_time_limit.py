"""A limit of time interrupts Python code in any thread, and leaves code after the block alone."""

import time
from collections.abc import Callable
from contextlib import suppress
from threading import Thread

import pytest

from srptq_plugin.utils.time_limit import TimeLimitError, time_limit


def spin(seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


def stubborn() -> None:
    """Swallow all but the second interrupt."""
    with suppress(BaseException):
        spin(20)
    spin(20)


def disguising() -> None:
    """Raise an error of its own in place of the interrupt."""
    try:
        spin(20)
    except BaseException as error:
        raise ValueError("own") from error


class Finalized:
    """An object whose destructor takes longer than the limit. Python ignores what it raises."""

    def __del__(self) -> None:
        spin(1)


def finalizing() -> None:
    Finalized()
    spin(20)


def attempt(block: Callable[[], None], results: list[object]) -> None:
    try:
        with time_limit(0.2):
            block()
    except TimeLimitError as error:
        results.append(str(error))
    else:
        results.append("done")
    spin(0.7)  # an interrupt that came late would end the thread here
    results.append("after")


@pytest.mark.parametrize(
    ("block", "outcome"),
    [
        (lambda: spin(20), "more than 0 s"),
        (stubborn, "more than 0 s"),
        (disguising, "more than 0 s"),
        (finalizing, "more than 0 s"),
        (lambda: spin(0), "done"),
    ],
)
@pytest.mark.parametrize("threaded", [False, True])
def test_a_block_ends_in_time(block: Callable[[], None], outcome: str, *, threaded: bool) -> None:
    results: list[object] = []
    started = time.monotonic()
    if threaded:
        thread = Thread(target=attempt, args=(block, results))
        thread.start()
        thread.join()
    else:
        attempt(block, results)
    assert results == [outcome, "after"]
    assert time.monotonic() - started < 10


def test_errors_of_the_block_pass() -> None:
    with pytest.raises(KeyError), time_limit(60):
        raise KeyError("own")
