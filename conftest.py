"""The tests' stand-in for MQBench, on the path only where MQBench itself cannot be imported."""

import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

STANDINS = Path(__file__).parent / "tests" / "standins"
FOUND = find_spec("mqbench")
REAL = FOUND is not None and FOUND.origin is not None

collect_ignore = [str(STANDINS)]
if not REAL:
    sys.path.append(str(STANDINS))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    terminalreporter.write_line(f"mqbench: {_which()}")


def _which() -> str:
    if not REAL:
        return "the tests' stand-in"
    mqbench = import_module("mqbench")
    return f"real, {mqbench.__version__} at {Path(str(mqbench.__file__)).parent}"
