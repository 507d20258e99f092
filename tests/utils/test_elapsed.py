"""A long step reports its time while it runs."""

import logging
from threading import Event

import pytest

from srptq_plugin.utils import elapsed
from srptq_plugin.utils.elapsed import reported


class Recorder(logging.Handler):
    """A log handler that sets an event at the third report."""

    def __init__(self) -> None:
        super().__init__()
        self.enough, self.lines = Event(), list[tuple[str, str]]()

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append((record.levelname, record.getMessage()))
        if len(self.lines) == 3:
            self.enough.set()


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    monkeypatch.setattr(elapsed, "TICK", 0.01)
    monkeypatch.setattr(elapsed.logger, "level", logging.INFO)
    handler = Recorder()
    monkeypatch.setattr(elapsed.logger, "handlers", [handler])
    return handler


def test_a_long_step_reports_until_it_ends(recorder: Recorder) -> None:
    with reported("tracing"):
        recorder.enough.wait()
    assert recorder.lines[:3] == [("INFO", "tracing: 0 s so far")] * 3
    ended = len(recorder.lines)
    Event().wait(0.05)  # five ticks, in which an unfinished thread would report
    assert len(recorder.lines) == ended
