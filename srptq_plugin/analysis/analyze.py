"""The cost of each part of a network: the image's error with the part quantized alone, and with the part left float."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, Literal

from torch import Tensor

from srptq_plugin.analysis import KINDS, Kind
from srptq_plugin.analysis.parts import Part, list_parts
from srptq_plugin.analysis.subject import Subject
from srptq_plugin.analysis.switching import PartlyQuantized
from srptq_plugin.data.images import fitted, to_tensor
from srptq_plugin.data.metrics import PEAK, decibels
from srptq_plugin.evaluation.pairs import Pair
from srptq_plugin.evaluation.scoring import scores
from srptq_plugin.utils.progress import Progress, quiet

BATCH = 4
Way = Literal["alone", "left_float"]
"""Only the part is quantized, or everything but the part."""
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
    subject: Subject, pairs: Sequence[Pair] = (), kinds: Sequence[Kind] = KINDS, progress: Progress = quiet
) -> Analysis:
    """Measure the parts of these kinds. With `pairs`, score them against the truth as well."""
    parts = list_parts(subject.table.plan, subject.network, kinds)
    meter = _Meter(subject, parts, progress, len(subject.patches) + len(pairs))
    for batch in subject.patches.split(subject.batch(BATCH)):
        meter.compare(batch)
    for pair in pairs:
        meter.score(pair)
    return meter.analysis()


def measure_noise(subject: Subject, progress: Progress = quiet) -> dict[str, float]:
    """Measure the noise that each group of sites makes alone."""
    network, total = PartlyQuantized(subject.table, subject.network), len(subject.table.plan.groups)
    squares = defaultdict[str, float](float)
    batches = subject.patches.split(subject.batch(BATCH))
    for done, batch in enumerate(batches):
        plain = network.trace(batch, frozenset())
        for n, group in enumerate(subject.table.plan.groups):
            progress("measuring noise", done * total + n, len(batches) * total)
            squares[group] += float(subject.levels(plain.switched({group}) - plain.output).square().sum())
    values = subject.patches.numel() * subject.record.scale**2
    return {group: squared / values for group, squared in squares.items()}


@dataclass
class _ErrorSums:
    """Sums over images: squared errors in levels, how many values they are of, and scores."""

    squared: float = 0.0
    values: int = 0
    scores: list[tuple[float, float]] = field(default_factory=list[tuple[float, float]])

    def quality(self) -> Quality:
        noise = self.squared / max(self.values, 1)
        if not self.scores:
            return Quality(noise)
        psnr, ssim = zip(*self.scores, strict=True)
        return Quality(noise, fmean(psnr), fmean(ssim))


class _Meter:
    """The sums of all parts while images are measured."""

    def __init__(self, subject: Subject, parts: Sequence[Part], progress: Progress, images: int) -> None:
        self.subject, self.parts, self.progress = subject, parts, progress
        self.network = PartlyQuantized(subject.table, subject.network)
        self.steps, self.done = images * len(parts), 0
        self.sums: dict[tuple[Part, Way], _ErrorSums] = defaultdict(_ErrorSums)

    def compare(self, images: Tensor) -> None:
        """Add the errors of a batch against the float network."""
        for sums, output, plain in self._outputs(images):
            sums.squared += float(self.subject.levels(output - plain).square().sum())
            sums.values += output.numel()

    def score(self, pair: Pair) -> None:
        """Add the scores of an image whose truth is known."""
        record, pixels = self.subject.record, pair.low.pixels
        height, width = (record.scale * side for side in pixels.shape[:2])
        image = to_tensor(fitted(pixels, record.multiple)[None], record.input_range, record.channels)
        for sums, output, _ in self._outputs(image):
            cropped = output[..., :height, :width]
            sums.scores.append(scores(cropped, pair, record.scale, record.input_range))

    def _outputs(self, images: Tensor) -> Iterator[tuple[_ErrorSums, Tensor, Tensor]]:
        """Yield the output for every part and way of quantizing, with the float network's output."""
        plain = self.network.trace(images, frozenset())
        full = self.network.trace(images, self.network.groups)
        yield self.sums[WHOLE, "alone"], plain.output, plain.output
        yield self.sums[WHOLE, "left_float"], full.output, plain.output
        for part in self.parts:
            self.progress("analyzing", self.done, self.steps)
            yield self.sums[part, "alone"], plain.switched(part.groups), plain.output
            yield self.sums[part, "left_float"], full.switched(part.groups), plain.output
            self.done += len(images)
        self.progress("analyzing", self.done, self.steps)

    def analysis(self) -> Analysis:
        """Return the means of all that was measured."""
        plain, quantized = self._qualities(WHOLE)
        return Analysis(plain, quantized, [Sensitivity(part, *self._qualities(part)) for part in self.parts])

    def _qualities(self, part: Part) -> tuple[Quality, Quality]:
        return self.sums[part, "alone"].quality(), self.sums[part, "left_float"].quality()
