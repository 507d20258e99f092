"""What native runtimes need on any machine: as many threads as there are cores to use, and silence."""

import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

STDERR = 2


def count_usable_cores() -> int:
    """Return how many cores this process may use. Threads on others would wait for each other."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def without_logs() -> Generator[None]:
    """Silence native code, which logs to stderr whatever Python does."""
    kept = os.dup(STDERR)
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), STDERR)
    try:
        yield
    finally:
        os.dup2(kept, STDERR)
        os.close(kept)
