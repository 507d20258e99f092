import sys
from types import ModuleType

import pytest
from helpers.scripts import EXAMPLES


@pytest.fixture
def tiny_npu(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Import the example of a target, and leave no bytecode next to it."""
    monkeypatch.syspath_prepend(str(EXAMPLES / "third_party_target"))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    import tiny_npu  # noqa: PLC0415 # pyright: ignore[reportMissingImports]

    return tiny_npu
