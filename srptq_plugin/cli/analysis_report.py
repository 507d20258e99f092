"""What `srptq analyze` prints."""

import shlex
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from srptq_plugin.cli.console import Block, Facts, Lines, Table
from srptq_plugin.cli.reports import bit_counts
from srptq_plugin.data.metrics import PEAK, decibels
from srptq_plugin.graph.stages import STAGES

Record = Mapping[str, Any]
SHOWN = 12
"""How many blocks and sites are printed, the most costly first."""
TITLES = {"stage": "stages", "block": "block", "site": "site"}


def analysis_report(analysis: Record, file: Path) -> list[Block]:
    """Report on the whole network, then on each kind of part in a table, the most costly first."""
    truth = analysis["float"]["psnr_y"] is not None
    ends = [
        ("quantized", _quality(analysis["quantized"])),
        *([("float", _scores(analysis["float"]))] if truth else []),
    ]
    tables = [_table(kind, [part for part in analysis["parts"] if part["kind"] == kind]) for kind in TITLES]
    return [Facts(ends), *filter(None, tables), Facts([("file", str(file))])]


def precision_report(answer: Record, recipe: Path, file: Path) -> list[Block]:
    """Compare the mixture of bits with the same bits everywhere, and show where its bits are."""
    columns = ["bits", "size", "BitOPs", "PSNR"]
    rows = [[f"{uniform['width']} everywhere", *_costs(uniform)] for uniform in answer["uniform"]]
    rows.append(["mixed", *_costs(answer["mixed"])])
    noise = answer["mixed"]["expected_noise"]
    expected = f"{_db(decibels(noise, PEAK) if noise else None)} if noises added up"
    return [
        Table(columns, rows, frozenset(columns[1:])),
        _bits_by_stage(answer),
        Facts(
            [
                ("shares", "of 8 bits everywhere; PSNR against the float network"),
                ("expected", expected),
                ("recipe", str(recipe)),
                ("file", f"{file}, with a curve of {len(answer['curve']['mixtures'])} budgets: srptq plot draws it"),
            ]
        ),
        Lines([f"srptq quantize --recipe {shlex.quote(str(recipe))}"], "next"),
    ]


def _quality(quality: Record) -> str:
    scores = f"; {_scores(quality)}" if quality["psnr_y"] is not None else ""
    return f"{_db(quality['psnr'])} against the float network{scores}"


def _scores(quality: Record) -> str:
    return f"PSNR {quality['psnr_y']:.2f} dB, SSIM {quality['ssim_y']:.4f}"


def _table(kind: str, parts: Sequence[Record]) -> Table | None:
    """Make a table of PSNR against the float network, and against the truth if it was measured."""
    if not parts:
        return None
    costly = sorted(parts, key=lambda part: -part["alone"]["noise"])
    shown = costly if kind == "stage" else costly[:SHOWN]
    truth = parts[0]["alone"]["psnr_y"] is not None
    columns = [TITLES[kind], "alone", "left float", *(["PSNR alone", "PSNR left float"] if truth else [])]
    rows = [[part["name"], *_cells(part, truth=truth)] for part in shown]
    if more := len(parts) - len(shown):
        rows.append([f"and {more} more", *[""] * (len(columns) - 1)])
    return Table(columns, rows, frozenset(columns[1:]))


def _cells(part: Record, *, truth: bool) -> list[str]:
    ways = part["alone"], part["left_float"]
    return [*(_db(way["psnr"]) for way in ways), *([f"{way['psnr_y']:.2f} dB" for way in ways] if truth else [])]


def _db(value: float | None) -> str:
    return "as float" if value is None else f"{value:.2f} dB"


def _costs(mixture: Record) -> list[str]:
    return [f"{mixture['size']:.3f}", f"{mixture['bops']:.3f}", _db(mixture["psnr"])]


def _bits_by_stage(answer: Record) -> Table:
    """Count the tensors of each stage and role by bits."""
    counts: dict[tuple[str, str], Counter[int]] = defaultdict(Counter)
    for group, bits in answer["mixed"]["bits"].items():
        counts[tuple(answer["groups"][group])][bits] += 1
    used = {stage for stage, _ in counts}
    rows = [
        [stage, *(bit_counts(counts[stage, role]) for role in ("weight", "activation"))]
        for stage in STAGES
        if stage in used
    ]
    return Table(["stage", "weights", "activations"], rows)
