"""What people read after `analyze`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from srptq_plugin.console import Block, Facts, Table

Record = Mapping[str, Any]
SHOWN = 12
"""Blocks and sites are many: those that cost the most are shown."""
TITLES = {"stage": "stages", "block": "block", "site": "site"}


def analysis_report(found: Record, file: Path) -> list[Block]:
    """The whole network, then a table for each kind of part, what costs the most first."""
    truth = found["float"]["psnr_y"] is not None
    ends = [("quantized", _whole(found["quantized"])), *([("float", _scores(found["float"]))] if truth else [])]
    tables = [_table(kind, [part for part in found["parts"] if part["kind"] == kind]) for kind in TITLES]
    return [Facts(ends), *filter(None, tables), Facts([("file", str(file))])]


def _whole(quality: Record) -> str:
    scores = f"; {_scores(quality)}" if quality["psnr_y"] is not None else ""
    return f"{_db(quality['psnr'])} against the float network{scores}"


def _scores(quality: Record) -> str:
    return f"PSNR {quality['psnr_y']:.2f} dB, SSIM {quality['ssim_y']:.4f}"


def _table(kind: str, parts: Sequence[Record]) -> Table | None:
    """Against the float network; against the truth as well where that is known."""
    if not parts:
        return None
    costly = sorted(parts, key=lambda part: -part["alone"]["noise"])
    shown = costly if kind == "stage" else costly[:SHOWN]
    truth = parts[0]["alone"]["psnr_y"] is not None
    columns = [TITLES[kind], "alone", "left float", *(["PSNR alone", "PSNR left float"] if truth else [])]
    rows = [[part["name"], *_cells(part, truth=truth)] for part in shown]
    more = len(parts) - len(shown)
    return Table(
        columns, [*rows, *([[f"and {more} more", *[""] * (len(columns) - 1)]] if more else [])], frozenset(columns[1:])
    )


def _cells(part: Record, *, truth: bool) -> list[str]:
    ways = part["alone"], part["left_float"]
    return [*(_db(way["psnr"]) for way in ways), *([f"{way['psnr_y']:.2f} dB" for way in ways] if truth else [])]


def _db(value: float | None) -> str:
    return "as float" if value is None else f"{value:.2f} dB"
