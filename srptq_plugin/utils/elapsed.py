"""Progress of a step that has no steps of its own: how long it has taken so far."""

import logging
from collections.abc import Generator
from contextlib import contextmanager
from itertools import count
from threading import Event, Thread

logger = logging.getLogger(__name__)
TICK = 10.0
"""Seconds between two reports."""
PATIENCE = 6
"""Reports before the warning that names the cure."""


@contextmanager
def reported(what: str, cure: str = "") -> Generator[None]:
    """Log every `TICK` seconds how long the block has run. Warn once with `cure`, if there is one."""
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
