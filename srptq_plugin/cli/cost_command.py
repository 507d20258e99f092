"""What `srptq cost` prints: figures by stage, and totals next to the float network's."""

from collections.abc import Iterator, Mapping
from typing import Any

from srptq_plugin.cli.console import Block, Facts, Table
from srptq_plugin.cli.reports import describe_images
from srptq_plugin.costs.units import scaled

Record = Mapping[str, Any]
FIGURES = (
    ("BitOPs", "bops", ""),
    ("model", "size", "B"),
    ("feature maps", "memory", "B"),
    ("FQSR's OPs", "fqsr_operations", ""),
    ("FQSR's memory", "fqsr_memory", "B"),
    ("DAQ's BitOPs", "daq_operations", ""),
)
"""Label, key and unit of each total."""


def cost_report(estimate: Record) -> list[Block]:
    """Report what was counted, where the arithmetic is, and what quantization saves."""
    model, size = estimate["model"], "x".join(map(str, estimate["input_size"]))
    about = f"{model['name']}, {model['parameters']:,} parameters, {describe_images(model)}, input {size}"
    peak = estimate["quantized"]["memory"]["operation"]
    return [
        Facts([("network", about), ("recipe", f"{estimate['recipe']}, for {estimate['target']}")]),
        _stages(estimate),
        _totals(estimate),
        Facts([("most memory", f"at {peak}, {_peak_in_float(estimate)}"), *_gates(estimate["gates"])]),
    ]


def _gates(gates: Record) -> Iterator[tuple[str, str]]:
    """Yield what gates add, which is in the totals, if there are any."""
    if gates["number"]:
        means = f"{scaled(gates['additions'])} additions for means"
        yield "gates", f"{gates['number']}, with {scaled(gates['bops'])} BitOPs, {means}, {scaled(gates['bytes'], 'B')}"


def _peak_in_float(estimate: Record) -> str:
    quantized, plain = (estimate[kind]["memory"]["operation"] for kind in ("quantized", "float"))
    return "in float as well" if quantized == plain else f"in float at {plain}"


def _stages(estimate: Record) -> Table:
    columns = ["stage", "MACs", "share", "BitOPs", "in float", "ratio"]
    rows = [_row(stage, estimate["macs"]) for stage in estimate["stages"]]
    whole = {"stage": "all", "macs": estimate["macs"], "bops": estimate["quantized"]["bops"]}
    rows.append(_row({**whole, "float_bops": estimate["float"]["bops"]}, estimate["macs"]))
    return Table(columns, rows, frozenset(columns[1:]))


def _row(stage: Record, macs: int) -> list[str]:
    share = f"{stage['macs'] / max(1, macs):.1%}"
    bops, plain = stage["bops"], stage["float_bops"]
    return [stage["stage"], scaled(stage["macs"]), share, scaled(bops), scaled(plain), _ratio(plain, bops)]


def _totals(estimate: Record) -> Table:
    columns = ["in all", "quantized", "in float", "ratio"]
    return Table(columns, list(_figures(estimate["quantized"], estimate["float"])), frozenset(columns[1:]))


def _figures(quantized: Record, plain: Record) -> Iterator[list[str]]:
    for label, key, unit in FIGURES:
        totals = _number(quantized[key]), _number(plain[key])
        if totals[0] is not None and totals[1] is not None:
            yield [label, scaled(totals[0], unit), scaled(totals[1], unit), _ratio(totals[1], totals[0])]


def _number(value: Any) -> float | None:
    return value["bytes"] if isinstance(value, Mapping) else value


def _ratio(plain: float | None, quantized: float | None) -> str:
    return f"{plain / quantized:.2f}" if plain and quantized else ""
