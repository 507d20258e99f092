"""Report how long a step that nothing interrupts has taken so far."""

import logging
from collections.abc import Generator
from contextlib import contextmanager
from itertools import count
from threading import Event, Thread

logger = logging.getLogger(__name__)
TICK = 10.0
"""Seconds between two reports."""
PATIENCE = 6
"""Reports after which the cure is named."""


@contextmanager
def reported(what: str, cure: str = "") -> Generator[None]:
    """Log at every tick how long the block has run, and warn once with the cure, if there is one."""
    done = Event()
    thread = Thread(target=_report, args=(done, what, cure), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _report(done: Event, what: str, cure: str) -> None:
    for ticks in count(1):
        if done.wait(TICK):
            return
        logger.info("%s: %.0f s so far", what, ticks * TICK)
        if cure and ticks == PATIENCE:
            logger.warning("%s has taken %.0f s; %s", what, ticks * TICK, cure)
