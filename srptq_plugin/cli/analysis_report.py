"""What people read after `analyze`."""

import shlex
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from srptq_plugin.cli.console import Block, Facts, Lines, Table
from srptq_plugin.cli.reports import STAGES, bit_counts
from srptq_plugin.data.metrics import PEAK, decibels

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


def precision_report(found: Record, recipe: Path, file: Path) -> list[Block]:
    """The mixture beside one number of bits everywhere, and where its bits are."""
    columns = ["bits", "size", "BitOPs", "PSNR"]
    rows = [[f"{each['width']} everywhere", *_costs(each)] for each in found["uniform"]]
    rows.append(["mixed", *_costs(found["mixed"])])
    noise = found["mixed"]["expected_noise"]
    expected = f"{_db(decibels(noise, PEAK) if noise else None)} if noises added up"
    return [
        Table(columns, rows, frozenset(columns[1:])),
        _where(found),
        Facts(
            [
                ("shares", "of 8 bits everywhere; PSNR against the float network"),
                ("expected", expected),
                ("recipe", str(recipe)),
                ("file", f"{file}, with a curve of {len(found['curve']['mixtures'])} budgets: srptq plot draws it"),
            ]
        ),
        Lines([f"srptq quantize --recipe {shlex.quote(str(recipe))}"], "next"),
    ]


def _costs(mixture: Record) -> list[str]:
    return [f"{mixture['size']:.3f}", f"{mixture['bops']:.3f}", _db(mixture["psnr"])]


def _where(found: Record) -> Table:
    """How many tensors of each stage and role have which bits."""
    counts: dict[tuple[str, str], Counter[int]] = defaultdict(Counter)
    for group, bits in found["mixed"]["bits"].items():
        counts[tuple(found["groups"][group])][bits] += 1
    used = [stage for stage in STAGES if any(stage == each for each, _ in counts)]
    rows = [[stage, *(bit_counts(counts[stage, role]) for role in ("weight", "activation"))] for stage in used]
    return Table(["stage", "weights", "activations"], rows)
