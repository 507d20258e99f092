"""The images of a training: low-resolution ones, and the high-resolution ones that they were made from."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from srptq_plugin.data.images import Image, load_images
from srptq_plugin.errors import ArgumentError
from srptq_plugin.evaluation.pairs import load_pairs
from srptq_plugin.qat.batches import held_out
from srptq_plugin.runs.run import Run


@dataclass(frozen=True)
class TrainingImages:
    """Low-resolution images, and the high-resolution images of the same order, or None if the float network teaches."""

    lows: Sequence[Image]
    highs: Sequence[Image] | None

    @classmethod
    def load(cls, folder: Path, run: Run, scale: int | None = None) -> "TrainingImages":
        """Read a folder of low-resolution images, of pairs (`HR` and `LR_x4`) or, with a scale, of photographs."""
        if scale is not None and scale != run.scale:
            raise ArgumentError("scale", f"the network of {run.folder} upscales by {run.scale}", scale)
        is_paired = any((folder / name).is_dir() for name in ("HR", f"LR_x{run.scale}"))
        if is_paired or scale is not None:
            return cls.load_pairs(folder, run.scale)
        return cls(load_images(folder), None)

    @classmethod
    def load_pairs(cls, folder: Path, scale: int) -> "TrainingImages":
        """Read a folder of pairs, or of photographs, which are downscaled by the scale."""
        pairs = load_pairs(folder, scale).usable
        return cls([pair.low for pair in pairs], [pair.high for pair in pairs])

    def split(self) -> tuple["TrainingImages", "TrainingImages"]:
        """Return the images to train on and the images held out to validate on."""
        count = held_out(len(self.lows))
        if count >= len(self.lows):
            raise ArgumentError("images", "one image; give more, as some are held out to validate on, or give `data`")
        return self[:-count], self[-count:]

    def all(self) -> Iterator[Image]:
        """Yield the low-resolution images, then the high-resolution ones."""
        yield from chain(self.lows, self.highs or ())

    def __getitem__(self, part: slice) -> "TrainingImages":
        return TrainingImages(self.lows[part], None if self.highs is None else self.highs[part])
