"""The screen of a limit on the drop, and its mistakes."""

from typing import Any

from helpers.command_line import Srptq, refused

from srptq_plugin.cli.console import plain
from srptq_plugin.cli.drop_report import drop_report


def plan(floats: list[str], drop: float, speedup: float | None = None, **bits: int) -> dict[str, Any]:
    shares = {"integer_macs": 1 - 0.1 * len(floats), "bops": 0.0625 + 0.1 * len(floats)}
    return {"left_float": floats, "bits": bits, **shares, "drop": drop, "speedup": speedup}


def control(*plans: dict[str, Any], chosen: int) -> dict[str, Any]:
    where = {"limit": 0.05, "data": "Set5", "images": 5, "judged_in": "simulation"}
    return {**where, "plans": plans, "chosen": chosen, "drop": plans[chosen]["drop"]}


def test_each_plan_has_a_line() -> None:
    text = plain(drop_report(control(plan([], 0.2, 3.0), plan(["a/conv", "b/conv"], 0.04, 2.5, x=16), chosen=1)))
    first, second = text.splitlines()[1:3]
    assert first.split("  ")[0] == "1"
    assert "the recipe as it is" in first
    assert "100.0 %  0.200 dB   3.00" in first
    assert "2 operations float, 1 tensor with more bits" in second
    assert "drop: plan 2: 0.040 of 0.05 dB on 5 images of Set5, in simulation" in text
    assert "given for it: 2 operations float, 1 tensor with more bits: a/conv, b/conv, x (16 bits)" in text
    assert "100.0 % -> 80.0 % of multiplications in integers" in text
    assert "6.2 % -> 26.2 % of float's BitOPs" in text
    assert "3.00 -> 2.50 times as fast as float" in text


def test_a_recipe_that_holds_gives_nothing() -> None:
    text = plain(drop_report(control(plan([], 0.01), chosen=0)))
    assert "given for it: nothing: the recipe holds the drop as it is" in text
    assert "not measured" in text
    assert "times as fast" not in text


def test_a_run_without_a_limit_reports_none() -> None:
    assert drop_report(None) == []


def test_mistakes_name_the_options(srptq: Srptq) -> None:
    refused(srptq("quantize", "--max-drop", "0.1"), "--max-drop 0.1: ", "give --data")
    refused(srptq("quantize", "--data", "Set5"), "--data: ", "give --max-drop as well")
    refused(srptq("quantize", "--max-drop", "-1", "--data", "Set5"), "--max-drop -1.0: give the dB")
