"""A long step reports its time while it runs, and names the cure once."""

import logging
from threading import Event

import pytest

from srptq_plugin.utils import elapsed
from srptq_plugin.utils.elapsed import reported


class Recorder(logging.Handler):
    """A log handler that sets an event at the report after the warning."""

    def __init__(self) -> None:
        super().__init__()
        self.enough, self.lines = Event(), list[tuple[str, str]]()

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append((record.levelname, record.getMessage()))
        if len(self.lines) == elapsed.PATIENCE + 2:
            self.enough.set()


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    monkeypatch.setattr(elapsed, "TICK", 0.01)
    monkeypatch.setattr(elapsed.logger, "level", logging.INFO)
    handler = Recorder()
    monkeypatch.setattr(elapsed.logger, "handlers", [handler])
    return handler


def test_a_long_step_warns_once(recorder: Recorder) -> None:
    with reported("tracing", "give one size"):
        recorder.enough.wait()
    lines = recorder.lines[: elapsed.PATIENCE + 2]
    assert [level for level, _ in lines] == ["INFO"] * elapsed.PATIENCE + ["WARNING", "INFO"]
    assert lines[elapsed.PATIENCE][1].endswith("give one size")
    ended = len(recorder.lines)
    Event().wait(0.05)  # five ticks, in which an unfinished thread would report
    assert len(recorder.lines) == ended
