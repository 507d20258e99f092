"""How many cases there are, where all of them were asked for."""

from pathlib import Path

import pytest

HERE = Path(__file__).parent
LEAST = 2000


def test_there_are_enough_cases(request: pytest.FixtureRequest) -> None:
    cases = [item for item in request.session.items if item.path.parent == HERE]
    if {item.path for item in cases} != set(HERE.glob("test_*.py")):
        pytest.skip("only a part was asked for")
    assert len(cases) >= LEAST
