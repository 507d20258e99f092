"""A step that takes long says so while it runs, and what would shorten it, once."""

import logging
from threading import Event

import pytest

from srptq_plugin.utils import elapsed
from srptq_plugin.utils.elapsed import reported


class Heard(logging.Handler):
    """Sets an event at the report after the one that names the cure."""

    def __init__(self) -> None:
        super().__init__()
        self.enough, self.lines = Event(), list[tuple[str, str]]()

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append((record.levelname, record.getMessage()))
        if len(self.lines) == elapsed.PATIENCE + 2:
            self.enough.set()


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> Heard:
    monkeypatch.setattr(elapsed, "TICK", 0.01)
    monkeypatch.setattr(elapsed.logger, "level", logging.INFO)
    handler = Heard()
    monkeypatch.setattr(elapsed.logger, "handlers", [handler])
    return handler


def test_a_long_step_reports_and_names_the_cure_once(heard: Heard) -> None:
    with reported("tracing", "give one size"):
        heard.enough.wait()
    lines = heard.lines[: elapsed.PATIENCE + 2]
    assert [level for level, _ in lines] == ["INFO"] * elapsed.PATIENCE + ["WARNING", "INFO"]
    assert lines[elapsed.PATIENCE][1].endswith("give one size")
    ended = len(heard.lines)
    assert not Event().wait(0.05)
    assert len(heard.lines) == ended
