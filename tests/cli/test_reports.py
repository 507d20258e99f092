"""What a report says, from records made by hand."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from srptq_plugin.cli.console import plain
from srptq_plugin.cli.reports import run_report, verification_report

NO_KERNEL = "no integer kernel on this target"
RECIPE = {"name": "r", "activations": {"observer": "minmax"}, "reconstruction": None}
MODEL = {"name": "net", "parameters": 3, "scale": 4}


def report_of(floats: Mapping[str, str], folder: Path) -> str:
    summary = {"model": MODEL, "recipe": RECIPE, "target": "t", "toolkit": "k", "sites": [], "floats": floats}
    return plain(run_report({**summary, "verify": {}, "seconds": {}, "artifacts": []}, folder))


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["up/interpolate"], "up/interpolate"),
        (["a/sigmoid", "a/mul.1"], "a/sigmoid, a/mul.1"),
        (["/mul", "a/sigmoid", "a/sigmoid.1", "b.0/sigmoid", "up/mul.12"], "3 sigmoid, 2 mul"),
    ],
)
def test_many_floats_are_counted_by_kind(names: list[str], expected: str, tmp_path: Path) -> None:
    floats = {**dict.fromkeys(names, NO_KERNEL), "head/conv": "the recipe says so"}
    text = report_of(floats, tmp_path)
    assert f"stays float: {expected}: {NO_KERNEL}\n" in text
    assert "stays float: head/conv: the recipe says so\n" in text


@pytest.mark.parametrize(("least", "expected"), [(42.5, "runtime, at least 42.5 required; "), (None, "runtime; ")])
def test_the_limit_of_verifying_is_printed(least: float | None, expected: str) -> None:
    verified = {"runtime": "r 1", "passed": True, "problems": [], "convs_int8": None, "psnr": 44.9}
    verified |= {"p99_9_levels": 1.0, "max_levels": 3.0, "least_psnr": least, "note": "its own noise"}
    text = plain(verification_report(verified))
    assert f"difference: 44.90 dB between simulation and {expected}" in text
    assert "note: its own noise" in text
