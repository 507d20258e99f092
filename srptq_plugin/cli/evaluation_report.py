"""What `srptq evaluate` prints: scores, and how the networks were run."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from srptq_plugin.cli.console import Block, Cell, Facts, Mark, Table
from srptq_plugin.cli.reports import format_db

Record = Mapping[str, Any]


def evaluation_report(evaluation: Record) -> list[Block]:
    """Report PSNR and SSIM, the loss against the float network, and how the networks were run."""
    facts = list(_circumstances(evaluation))
    return [_means(evaluation["rows"]), *([Facts(facts)] if facts else [])]


def _means(rows: Sequence[Record]) -> Table:
    columns = ["data", "output", "PSNR", "vs float", "SSIM", "images"]
    plain = {row["data"]: row["psnr"] for row in rows if row["output"] == "float"}
    cells = [
        [
            str(row["data"]),
            str(row["output"]),
            format_db(row["psnr"]),
            _change(row, plain.get(row["data"])),
            f"{row['ssim']:.4f}",
            str(row["images"]),
        ]
        for row in rows
    ]
    return Table(columns, cells, frozenset(columns[2:]))


def _circumstances(evaluation: Record) -> Iterator[tuple[str, Cell]]:
    """Yield what else the scores depend on."""
    if evaluation["skipped"]:
        yield "left out", f"{len(evaluation['skipped'])} that cannot be scored, named above"
    if evaluation["ensemble"]:
        yield "ensemble", "mean of 8 turned and mirrored outputs; bicubic is as it was"
    if tiles := evaluation["tiles"]:
        size = f"{tiles['height']} x {tiles['width']} pixels, overlap {tiles['overlap']}"
        yield "tiles", f"{size}; {tiles['split']} images in several, {tiles['padded']} padded to fit"
    if tiles and (seam := tiles["seam"]):
        difference = f"tiles differ from the whole image by at most {seam['levels']:.2f} levels of 255"
        yield "seams", Mark(f"{difference} ({seam['image']}, float)", good=not seam["visible"])


def _change(row: Record, plain: float | None) -> str:
    if plain is None or row["psnr"] is None or row["output"] == "float":
        return ""
    return f"{row['psnr'] - plain:+.2f} dB"
