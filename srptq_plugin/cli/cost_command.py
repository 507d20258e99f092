"""What people read after `cost`: figures by stage, and in all beside the float network's."""

from collections.abc import Iterator, Mapping
from typing import Any

from srptq_plugin.cli.console import Block, Facts, Table
from srptq_plugin.cli.reports import sides_in

Record = Mapping[str, Any]
FIGURES = (
    ("BitOPs", "bops", ""),
    ("model", "size", "B"),
    ("feature maps", "memory", "B"),
    ("FQSR's OPs", "fqsr_operations", ""),
    ("FQSR's memory", "fqsr_memory", "B"),
    ("DAQ's BitOPs", "daq_operations", ""),
)


def cost_report(found: Record) -> list[Block]:
    """What is counted, where the arithmetic is, and what the plan saves."""
    model, size = found["model"], "x".join(map(str, found["input_size"]))
    takes = f"upscales by {model['scale']}{sides_in(model)}"
    about = f"{model['name']}, {model['parameters']:,} parameters, {takes}, input {size}"
    return [
        Facts([("network", about), ("recipe", f"{found['recipe']}, for {found['target']}")]),
        _stages(found),
        _totals(found),
        Facts([("most memory", f"at {found['quantized']['memory']['operation']}, {_where(found)}")]),
    ]


def _where(found: Record) -> str:
    quantized, plain = (found[kind]["memory"]["operation"] for kind in ("quantized", "float"))
    return "in float as well" if quantized == plain else f"in float at {plain}"


def _stages(found: Record) -> Table:
    columns = ["stage", "MACs", "share", "BitOPs", "in float", "ratio"]
    rows = [_row(each, found["macs"]) for each in found["stages"]]
    whole = {"stage": "all", "macs": found["macs"], "bops": found["quantized"]["bops"]}
    rows.append(_row({**whole, "float_bops": found["float"]["bops"]}, found["macs"]))
    return Table(columns, rows, frozenset(columns[1:]))


def _row(each: Record, macs: int) -> list[str]:
    share = f"{each['macs'] / max(1, macs):.1%}"
    bops, plain = each["bops"], each["float_bops"]
    return [each["stage"], scaled(each["macs"]), share, scaled(bops), scaled(plain), _ratio(plain, bops)]


def _totals(found: Record) -> Table:
    columns = ["in all", "quantized", "in float", "ratio"]
    return Table(columns, list(_figures(found["quantized"], found["float"])), frozenset(columns[1:]))


def _figures(quantized: Record, plain: Record) -> Iterator[list[str]]:
    for label, key, unit in FIGURES:
        pair = [_number(total[key]) for total in (quantized, plain)]
        if None not in pair:
            yield [label, *(scaled(number, unit) for number in pair if number is not None), _ratio(pair[1], pair[0])]


def _number(value: Any) -> float | None:
    return value["bytes"] if isinstance(value, Mapping) else value


def _ratio(plain: float | None, quantized: float | None) -> str:
    return f"{plain / quantized:.2f}" if plain and quantized else ""


def scaled(number: float, unit: str = "") -> str:
    """Four digits and a factor of a thousand.

    >>> scaled(997_041_415_680), scaled(132_779_520, "B"), scaled(512, "B")
    ('997.0 G', '132.8 MB', '512 B')
    """
    for factor, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= factor:
            return f"{number / factor:#.4g} {prefix}{unit}"
    return f"{number:.0f} {unit}".rstrip()
