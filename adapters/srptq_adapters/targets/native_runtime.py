"""What native runtimes need on any machine: as many threads as there are cores to use, and silence."""

import os
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

STREAMS = (1, 2)


def count_usable_cores() -> int:
    """Return how many cores this process may use. Threads on others would wait for each other."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def without_logs() -> Generator[None]:
    """Silence native code, which logs to stdout and stderr whatever Python does."""
    with Path(os.devnull).open("w") as nowhere, logs_in(nowhere):
        yield


@contextmanager
def logs_in(file: IO[Any]) -> Generator[None]:
    """Let native code log to a file."""
    sys.stdout.flush()
    kept = [os.dup(stream) for stream in STREAMS]
    for stream in STREAMS:
        os.dup2(file.fileno(), stream)
    try:
        yield
    finally:
        for stream, own in zip(STREAMS, kept, strict=True):
            os.dup2(own, stream)
            os.close(own)
