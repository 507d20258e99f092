"""A progress bar on stderr, in a terminal only, for steps that take longer than two seconds."""

import logging
from threading import RLock, Timer, current_thread
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

logger = logging.getLogger(__name__)
DELAY = 2.0
"""Seconds before a bar is shown."""
BETWEEN = "working"
"""The name of the bar between two steps."""


class Bars:
    """The `Progress` callback of the command line, which shows one bar at a time.

    A timer shows the bar, so that it appears even if the step reports nothing for a long time.
    """

    def __init__(self, stream: TextIO, delay: float = DELAY) -> None:
        self._stream, self._delay, self._live = stream, delay, stream.isatty()
        self._lock = RLock()
        self._what, self._done, self._total = "", 0, 0
        self._timer: Timer | None = None
        self._shown: tuple[Progress, TaskID] | None = None

    def __enter__(self) -> Self:
        self(BETWEEN, 0, 0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._end()

    def __call__(self, what: str, done: int, total: int) -> None:
        """Show the progress of a step: its name, how much is done, and how much there is in all."""
        with self._lock:
            self._note(what, done, total)

    def _note(self, what: str, done: int, total: int) -> None:
        if what != self._what:
            self._end()
            self._begin(what)
        self._done, self._total = done, total
        if self._shown:
            progress, task = self._shown
            progress.update(task, **self._fields())
        if total and done >= total:
            self._note(BETWEEN, 0, 0)

    def _begin(self, what: str) -> None:
        self._what = what
        if what != BETWEEN:
            logger.info(what)
        if not self._live:
            return
        self._timer = Timer(self._delay, self._show)
        self._timer.daemon = True
        self._timer.start()

    def _end(self) -> None:
        if self._timer:
            self._timer.cancel()
        if self._shown:
            self._shown[0].stop()
        self._timer = self._shown = None
        self._what = ""

    def _show(self) -> None:
        with self._lock:
            # a timer that fired while its step was ending waits for the lock here, and is no longer the current one
            if self._timer is current_thread():
                progress = _progress(self._stream)
                self._shown = progress, progress.add_task(self._what, **self._fields())
                progress.start()

    def _fields(self) -> dict[str, Any]:
        """Return the fields of the bar. A step of unknown length pulses and has no count."""
        count = f"{self._done} of {self._total}" if self._total else ""
        left = "left" if self._total else ""
        return {"completed": self._done, "total": self._total or None, "count": count, "left": left}


def _progress(stream: TextIO) -> "Progress":
    from rich import progress  # noqa: PLC0415 - not before there is something to show
    from rich.console import Console  # noqa: PLC0415

    return progress.Progress(
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(),
        progress.TextColumn("{task.fields[count]}"),
        progress.TimeElapsedColumn(),
        progress.TextColumn("{task.fields[left]}"),
        progress.TimeRemainingColumn(),
        console=Console(file=stream),
        transient=True,
    )
