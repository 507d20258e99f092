"""The command blocks of documents, run unchanged with a small network, few patches and few steps."""

import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.documents import Block, blocks, commands_of

from srptq_plugin.cli import main
from srptq_plugin.cli.console import plain
from srptq_plugin.cli.reports import run_report
from srptq_plugin.runs.run import SUMMARY

LABEL = re.compile(r"^(\w[\w ]*?)(?:  |$)", re.MULTILINE)
RUN = [block for block in blocks("sh") if any(command.program == "srptq" for command in commands_of(block))]


@pytest.fixture(autouse=True)
def restored_root_logger() -> Iterator[None]:
    """Undo the command line's changes of the root logger."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.mark.usefixtures("workplace", "plugins")
@pytest.mark.parametrize("block", RUN, ids=str)
def test_a_block_of_commands_runs(block: Block, capsys: pytest.CaptureFixture[str]) -> None:
    for command in commands_of(block):
        if command.program == "srptq":
            code = main(command.arguments)
            assert code == 0, capsys.readouterr().err


def test_shown_screens_have_the_programs_labels(furnished: Path) -> None:
    texts = [block.text for block in blocks("text")]
    screen, excerpt = (next(text for text in texts if text.startswith(label)) for label in ("network ", "verified "))
    report = plain(run_report(json.loads((furnished / "run" / SUMMARY).read_text(encoding="utf-8")), furnished / "run"))
    shown = LABEL.findall(report.partition("\nnext")[0].replace(": ", "  "))
    # Only the small network has notes: its integers are slower than float, and tuning it for a few steps may gain
    # nothing. A terminal shows a label once.
    assert LABEL.findall(screen) == [label for label in dict.fromkeys(shown) if label not in {"note", "tuning"}]
    assert set(excerpt.splitlines()) <= set(screen.splitlines())
