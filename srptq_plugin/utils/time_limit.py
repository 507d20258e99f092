"""A limit on the processor time that a block of Python code takes, in any thread and on any system.

The time on the clock would depend on what else the machine does.
"""

import ctypes
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from threading import Event, Lock, Thread, get_ident

AGAIN = 0.5
"""Seconds until a block that swallowed the interrupt gets another one."""
SHORTEST = 0.05
"""Seconds between two looks at the clock."""


class TimeLimitError(Exception):
    """A block took longer than its limit."""


class _Interrupt(BaseException):
    """Interrupts a block. `except Exception` in it does not swallow this."""


@contextmanager
def time_limit(seconds: float) -> Generator[None]:
    """Raise TimeLimitError in this thread if the block computes longer. Functions written in C finish first.

    >>> with time_limit(60):
    ...     sum(range(3))
    3
    """
    watch = _Watch(get_ident(), seconds)
    try:
        with _ignored_interrupts_unprinted():
            watch.start()
            try:
                yield
            finally:
                watch.stop()
    except BaseException as error:
        watch.stop()  # again: the interrupt may have come while the first one waited for the lock
        # Code that catches everything may have raised another error in place of the interrupt.
        if not watch.expired or isinstance(error, KeyboardInterrupt):
            raise
        raise TimeLimitError(f"more than {seconds:.0f} s") from None


@contextmanager
def _ignored_interrupts_unprinted() -> Generator[None]:
    """Print nothing where Python ignores an interrupt, in destructors and callbacks. Another one follows."""
    previous = sys.unraisablehook

    def hook(unraisable: "sys.UnraisableHookArgs") -> None:
        if unraisable.exc_type is not _Interrupt:
            previous(unraisable)

    sys.unraisablehook = hook
    try:
        yield
    finally:
        if sys.unraisablehook is hook:  # another thread may have put its own on top
            sys.unraisablehook = previous


class _Watch:
    """Interrupts a thread after some seconds of the process's time, until it is stopped."""

    def __init__(self, thread: int, seconds: float) -> None:
        self._thread, self._seconds = ctypes.c_ulong(thread), seconds
        self._done, self._lock = Event(), Lock()
        self._end = 0.0
        self.expired = False

    def start(self) -> None:
        self._end = time.process_time() + self._seconds
        Thread(target=self._run, daemon=True).start()

    def stop(self) -> None:
        """Send no more interrupts, and take back one that has not been raised yet."""
        self._done.set()
        with self._lock:
            ctypes.pythonapi.PyThreadState_SetAsyncExc(self._thread, None)

    def _run(self) -> None:
        wait = self._seconds
        while not self._done.wait(wait):
            if (left := self._end - time.process_time()) > 0:
                wait = max(left, SHORTEST)
                continue
            with self._lock:
                if not self._done.is_set():
                    self.expired = True
                    # CPython raises it between two instructions of the thread, as it raises KeyboardInterrupt.
                    ctypes.pythonapi.PyThreadState_SetAsyncExc(self._thread, ctypes.py_object(_Interrupt))
            wait = AGAIN
