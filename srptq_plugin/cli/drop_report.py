"""What `srptq quantize --max-drop` prints: every plan that was tried, and what the chosen one gave for the drop."""

from collections.abc import Iterator, Mapping
from typing import Any

from srptq_plugin.accuracy.words import count_changes
from srptq_plugin.cli.console import Block, Cell, Facts, Mark, Table, first_names

Record = Mapping[str, Any]
FEW = 3
"""The most names that are printed of a group."""


def drop_report(control: Record | None) -> list[Block]:
    """Report the plans and the price of the drop, or nothing if there was no limit."""
    if control is None:
        return []
    rows = [_row(number, plan) for number, plan in enumerate(control["plans"], 1)]
    columns = ["plan", "changes", "multiplications in integers", "drop", "speed"]
    return [Table(columns, rows, frozenset(columns[2:])), Facts(list(_outcome(control)))]


def _row(number: int, plan: Record) -> list[Cell]:
    share = f"{100 * plan['integer_macs']:.1f} %"
    return [str(number), count_changes(plan), share, f"{plan['drop']:.3f} dB", _speed(plan["speedup"])]


def _outcome(control: Record) -> Iterator[tuple[str, Cell]]:
    chosen, first = control["plans"][control["chosen"]], control["plans"][0]
    images = f"{control['images']} image{'s' if control['images'] > 1 else ''}"
    where = f"on {images} of {control['data']}, in {control['judged_in']}"
    yield (
        "drop",
        Mark(f"plan {control['chosen'] + 1}: {control['drop']:.3f} of {control['limit']:g} dB {where}", good=True),
    )
    if chosen is first:
        yield "given for it", "nothing: the recipe holds the drop as it is"
        return
    names = [*chosen["left_float"], *(f"{name} ({bits} bits)" for name, bits in chosen["bits"].items())]
    yield "given for it", f"{count_changes(chosen)}: {first_names(names, FEW)}"
    yield "given for it", f"{_shares('integer_macs', first, chosen)} of multiplications in integers"
    if chosen["bits"]:
        yield "given for it", f"{_shares('bops', first, chosen)} of float's BitOPs"
    if chosen["speedup"] is not None and first["speedup"] is not None:
        yield "given for it", f"{_speed(first['speedup'])} -> {_speed(chosen['speedup'])} times as fast as float"


def _shares(key: str, *plans: Record) -> str:
    return " -> ".join(f"{100 * plan[key]:.1f} %" for plan in plans)


def _speed(speedup: float | None) -> str:
    return "not measured" if speedup is None else f"{speedup:.2f}"
