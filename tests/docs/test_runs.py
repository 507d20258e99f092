"""The blocks of documents, run as they stand: with a small network, few patches and few steps."""

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
RUN = [block for block in blocks("sh") if {each.program for each in commands_of(block)} & {"srptq"}]


@pytest.fixture(autouse=True)
def logs_as_before() -> Iterator[None]:
    """What the command line does to the root logger is undone."""
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


def test_the_screen_in_the_readme_has_the_parts_that_the_program_shows(furnished: Path) -> None:
    screen = next(block.text for block in blocks("text") if block.text.startswith("network "))
    report = plain(run_report(json.loads((furnished / "run" / SUMMARY).read_text(encoding="utf-8")), furnished / "run"))
    shown = LABEL.findall(report.partition("\nnext")[0].replace(": ", "  "))
    assert LABEL.findall(screen) == [label for label in shown if label != "note"]  # which a slow small network has
