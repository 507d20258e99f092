"""The scores of an evaluation, image by image, with the means, tables and files that follow from them."""

import csv
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from srptq_plugin.evaluation.seams import Seam
from srptq_plugin.evaluation.tiling import Tiling
from srptq_plugin.utils.atomic_file import atomic_file

COLUMNS = ("data", "image", "output", "psnr", "ssim")


@dataclass(frozen=True)
class Score:
    """The score of one output for one image."""

    image: str
    output: str
    psnr: float
    ssim: float


@dataclass(frozen=True)
class Tiles:
    """The tiling of an evaluation: how many images needed several tiles, how many were padded, and the seam."""

    tiling: Tiling
    split: int
    padded: int
    seam: Seam | None

    def record(self) -> dict[str, Any]:
        """Return one object for JSON."""
        seam = asdict(self.seam) | {"visible": self.seam.visible} if self.seam else None
        return asdict(self.tiling) | {"split": self.split, "padded": self.padded, "seam": seam}


@dataclass(frozen=True)
class Evaluation:
    """The scores of a data set, the images that were left out, and how the networks were run."""

    data: str
    scores: Sequence[Score]
    skipped: Sequence[str] = ()
    ensemble: bool = False
    tiles: Tiles | None = None

    @property
    def means(self) -> list[dict[str, Any]]:
        """One row for each output.

        >>> flat, steep = Score("a.png", "float", 30.0, 0.8), Score("b.png", "float", 32.0, 0.9)
        >>> [(row["psnr"], row["images"]) for row in Evaluation("Set5", [flat, steep]).means]
        [(31.0, 2)]
        """
        return [self._mean(name) for name in dict.fromkeys(score.output for score in self.scores)]

    @property
    def rows(self) -> list[dict[str, Any]]:
        """One row for each output and image."""
        return [{"data": self.data, **asdict(score)} for score in self.scores]

    def record(self) -> dict[str, Any]:
        """Return one object for JSON that holds everything."""
        tiles = self.tiles.record() if self.tiles else None
        return {
            "rows": self.means,
            "images": self.rows,
            "skipped": list(self.skipped),
            "ensemble": self.ensemble,
            "tiles": tiles,
        }

    def save(self, path: Path) -> None:
        """Write the rows as a CSV file. If that fails, leave an earlier file as it was."""
        with atomic_file(path) as draft, draft.open("x", newline="", encoding="utf-8") as file:
            table = csv.writer(file, lineterminator="\n")
            table.writerow(COLUMNS)
            table.writerows([row[column] for column in COLUMNS] for row in self.rows)

    def _mean(self, name: str) -> dict[str, Any]:
        scores = [score for score in self.scores if score.output == name]
        psnr = sum(score.psnr for score in scores) / len(scores)
        ssim = sum(score.ssim for score in scores) / len(scores)
        return {"data": self.data, "output": name, "psnr": psnr, "ssim": ssim, "images": len(scores)}
