"""Progress of a step that has no steps of its own: how long it has taken so far."""

import logging
from collections.abc import Generator
from contextlib import contextmanager
from itertools import count
from threading import Event, Thread

logger = logging.getLogger(__name__)
TICK = 10.0
"""Seconds between two reports."""


@contextmanager
def reported(what: str) -> Generator[None]:
    """Log every `TICK` seconds how long the block has run."""
    done = Event()
    thread = Thread(target=_report, args=(done, what), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _report(done: Event, what: str) -> None:
    for ticks in count(1):
        if done.wait(TICK):
            return
        logger.info("%s: %.0f s so far", what, ticks * TICK)
