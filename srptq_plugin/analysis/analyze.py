"""The cost of each part of a network: the image's error with the part quantized alone, and with the part left float."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import Any

from torch import Tensor

from srptq_plugin.analysis import KINDS, Kind
from srptq_plugin.analysis.kept_rows import KeptRows, Row, name_of
from srptq_plugin.analysis.parts import Part, list_parts
from srptq_plugin.analysis.subject import Subject
from srptq_plugin.analysis.switching import PartlyQuantized, Trace
from srptq_plugin.data.images import fitted, to_tensor
from srptq_plugin.data.metrics import PEAK, decibels
from srptq_plugin.evaluation.pairs import Pair
from srptq_plugin.evaluation.scoring import scores
from srptq_plugin.utils.checkpoint import digest
from srptq_plugin.utils.progress import Progress, quiet

BATCH = 4
WHOLE = Part("stage", "", frozenset())
"""The empty part. Quantized alone it is the float network, left float it is the quantized network."""


@dataclass(frozen=True)
class Quality:
    """The error of a network's output against the float network's, and its scores where the truth is known.

    `noise` is the mean squared error in squared levels of an 8-bit image.
    """

    noise: float
    psnr_y: float | None = None
    ssim_y: float | None = None

    @property
    def psnr(self) -> float | None:
        """The PSNR against the float network in dB, or None if there is no error.

        >>> f"{Quality(noise=1.0).psnr:.3f} dB", Quality(noise=0.0).psnr
        ('48.131 dB', None)
        """
        return decibels(self.noise, PEAK) if self.noise else None

    def record(self) -> dict[str, float | None]:
        """Return this record for JSON."""
        return {"noise": self.noise, "psnr": self.psnr, "psnr_y": self.psnr_y, "ssim_y": self.ssim_y}


@dataclass(frozen=True)
class Sensitivity:
    """The quality with a part quantized alone, and with everything but the part quantized."""

    part: Part
    alone: Quality
    left_float: Quality

    def record(self) -> dict[str, Any]:
        """Return this record for JSON."""
        return {
            "kind": self.part.kind,
            "name": self.part.name,
            "groups": sorted(self.part.groups),
            "alone": self.alone.record(),
            "left_float": self.left_float.record(),
        }


@dataclass(frozen=True)
class Analysis:
    """The whole network, float and quantized, and its parts."""

    float: Quality
    quantized: Quality
    parts: Sequence[Sensitivity]

    def record(self) -> dict[str, Any]:
        """Return this record for JSON."""
        ends = {"float": self.float.record(), "quantized": self.quantized.record()}
        return {**ends, "parts": [part.record() for part in self.parts]}


def analyze(
    subject: Subject,
    pairs: Sequence[Pair] = (),
    kinds: Sequence[Kind] = KINDS,
    progress: Progress = quiet,
    rows: KeptRows | None = None,
) -> Analysis:
    """Measure the parts of these kinds. With `pairs`, score them against the truth as well.

    Several processes share the parts. Measurements that are in `rows` are not repeated.
    """
    parts = [WHOLE, *list_parts(subject.table.plan, subject.network, kinds)]
    meter = _Meter(subject, parts, rows or KeptRows(), progress, len(subject.patches) + len(pairs))
    compared = [meter.compare(number, batch) for number, batch in enumerate(subject.patches.split(_batch(subject)))]
    scored = [meter.score(pair) for pair in pairs]
    whole, *others = (Sensitivity(part, *meter.qualities(part, compared, scored)) for part in parts)
    return Analysis(whole.alone, whole.left_float, others)


def measure_noise(subject: Subject, progress: Progress = quiet, rows: KeptRows | None = None) -> dict[str, float]:
    """Measure the noise that each group of sites makes alone. Several processes share the groups."""
    network, groups, kept = PartlyQuantized(subject.table, subject.network), list(subject.table.plan.groups), rows
    kept, name = kept or KeptRows(), name_of(subject)
    batches = subject.patches.split(_batch(subject))
    for number, batch in enumerate(batches):
        traced = _Traced(network, batch)

        def measure(key: str, number: int = number, traced: _Traced = traced) -> Row:
            group = key.partition(" ")[2]
            progress("measuring noise", number * len(groups) + groups.index(group), len(batches) * len(groups))
            return [float(subject.levels(traced.plain.switched({group}) - traced.plain.output).square().sum())]

        kept.measure(name, [f"{number} {group}" for group in groups], measure)
    values = subject.patches.numel() * subject.record.scale**2
    squares = {group: [kept.row(name, f"{n} {group}")[0] for n in range(len(batches))] for group in groups}
    return {group: _sum(squared) / values for group, squared in squares.items()}


def _batch(subject: Subject) -> int:
    return subject.batch(BATCH)


def _sum(values: Sequence[float]) -> float:
    """Add in order. Python's own sum rounds in another way from version 3.12 on."""
    total = 0.0
    for value in values:
        total += value
    return total


@dataclass(frozen=True)
class _Traced:
    """Images in the float network and in the quantized one. Each runs when it is asked for."""

    network: PartlyQuantized
    images: Tensor

    @cached_property
    def plain(self) -> Trace:
        return self.network.trace(self.images, frozenset())

    @cached_property
    def full(self) -> Trace:
        return self.network.trace(self.images, self.network.groups)


class _Meter:
    """Measures every part on images. A row has the numbers of the part alone, then with the part left float."""

    def __init__(
        self, subject: Subject, parts: Sequence[Part], rows: KeptRows, progress: Progress, images: int
    ) -> None:
        self.subject, self.rows, self.progress = subject, rows, progress
        self.parts = {f"{part.kind} {part.name}": part for part in parts}
        self.network, self.name = PartlyQuantized(subject.table, subject.network), name_of(subject)
        self.steps, self.done = images * len(parts), 0

    def compare(self, number: int, images: Tensor) -> str:
        """Measure the squared errors of a batch against the float network. Return the name of its rows."""

        def row(output: Tensor, plain: Tensor) -> Row:
            return [float(self.subject.levels(output - plain).square().sum()), output.numel()]

        return self._measure(f"batch {number}", images, row)

    def score(self, pair: Pair) -> str:
        """Measure the scores of an image whose truth is known. Return the name of its rows."""
        record, pixels = self.subject.record, pair.low.pixels
        height, width = (record.scale * side for side in pixels.shape[:2])
        image = to_tensor(fitted(pixels, record.multiple)[None], record.input_range, record.channels)

        def row(output: Tensor, _plain: Tensor) -> Row:
            return scores(output[..., :height, :width], pair, record.scale, record.input_range)

        truth = digest([pixels.tobytes(), pair.high.pixels.tobytes()])[:16]
        return self._measure(f"image {truth}", image, row)

    def _measure(self, name: str, images: Tensor, row: Callable[[Tensor, Tensor], Row]) -> str:
        traced, begun = _Traced(self.network, images), self.done

        def measure(key: str) -> Row:
            groups = self.parts[key.removeprefix(f"{name} ")].groups
            self.progress("analyzing", self.done, self.steps)
            self.done += len(images)
            outputs = traced.plain.switched(groups), traced.full.switched(groups)
            return [number for output in outputs for number in row(output, traced.plain.output)]

        self.rows.measure(self.name, [f"{name} {part}" for part in self.parts], measure)
        self.done = begun + len(images) * len(self.parts)
        self.progress("analyzing", self.done, self.steps)
        return name

    def qualities(self, part: Part, compared: Sequence[str], scored: Sequence[str]) -> tuple[Quality, Quality]:
        """Return the means over the images of these names: of a part alone, and of the part left float."""
        key = f"{part.kind} {part.name}"
        errors = [self.rows.row(self.name, f"{name} {key}") for name in compared]
        marks = [self.rows.row(self.name, f"{name} {key}") for name in scored]
        return _quality(errors, marks, 0), _quality(errors, marks, 2)


def _quality(errors: Sequence[Row], marks: Sequence[Row], first: int) -> Quality:
    squared, values = (_sum([row[first + n] for row in errors]) for n in range(2))
    noise = squared / max(values, 1)
    if not marks:
        return Quality(noise)
    return Quality(noise, *(fmean(row[first + n] for row in marks) for n in range(2)))
