"""Viewers of crops: the layers that a slider compares, and maps of their differences."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from srptq_plugin.data.metrics import PEAK, luma, psnr
from srptq_plugin.data.resize import Pixels
from srptq_plugin.evaluation.evaluate import ORIGINAL
from srptq_plugin.evaluation.outputs import BICUBIC, FLOAT, RUNTIME, SIMULATED
from srptq_plugin.report.crops import Crop
from srptq_plugin.report.png import address_of, differences, end_of_scale, map_address
from srptq_plugin.report.report import Report

COMPARED = ((SIMULATED, FLOAT), (RUNTIME, FLOAT), (RUNTIME, SIMULATED))
"""The pairs of outputs whose differences are shown."""
ALIKE = 1
"""Float networks whose pixels differ by so many levels at most share one layer."""
Source = tuple[int, str]
"""The number of a run and the name of one of its outputs."""


@dataclass(frozen=True)
class Layer:
    """A picture of the viewers."""

    key: str
    label: str


@dataclass(frozen=True)
class DifferenceMap:
    """A map of the differences of two outputs, with the largest, and the PSNR of the crop, None if they are equal."""

    label: str
    address: str
    most: int
    psnr: float | None


@dataclass(frozen=True)
class Viewer:
    """A crop with a slider: the address of each layer, and maps of differences."""

    image: str
    place: str
    width: int
    height: int
    addresses: Mapping[str, str]
    maps: Sequence[DifferenceMap]


@dataclass(frozen=True)
class Gallery:
    """All viewers, the layers that they offer, and the two that are shown first.

    Attributes:
        end: The level at which the scale of the maps ends.
    """

    layers: Sequence[Layer]
    left: str
    right: str
    viewers: Sequence[Viewer]
    end: int

    @classmethod
    def of(cls, report: Report) -> "Gallery":
        """Choose layers and encode pictures."""
        sources = dict(_layers(report))
        layers = [layer for layer, _ in sources.values()]
        maps = [list(_maps(report, number)) for number in range(len(report.crops[0]))]
        end = end_of_scale([levels for own in maps for _, levels, _ in own])
        viewers = [_viewer(report, number, sources, own, end) for number, own in enumerate(maps)]
        integers = [_key(n, RUNTIME if _has(report, n, RUNTIME) else SIMULATED) for n in range(len(report.runs))]
        left, right = (integers[0], integers[1]) if len(integers) > 1 else (_key(0, FLOAT), integers[0])
        return cls(layers, left, right, viewers, end)


def _layers(report: Report) -> Iterator[tuple[str, tuple[Layer, Source]]]:
    """Yield the layers from the original on, with where their pixels come from."""
    if _has(report, 0, ORIGINAL):
        yield ORIGINAL, (Layer(ORIGINAL, "original"), (0, ORIGINAL))
    yield BICUBIC, (Layer(BICUBIC, "bicubic"), (0, BICUBIC))
    several, shared = len(report.runs) > 1, _float_is_shared(report)
    for number, run in enumerate(report.runs):
        prefix = f"{run.name}: " if several else ""
        labels = {SIMULATED: f"{run.width}, simulated", RUNTIME: f"{run.width} in {run.run.recipe.target}"}
        if not (shared and number):
            labels = {FLOAT: FLOAT} | labels
        for name, label in labels.items():
            if _has(report, number, name):
                own = prefix if name != FLOAT or not shared else ""
                yield _key(number, name), (Layer(_key(number, name), own + label), (number, name))


def _key(number: int, name: str) -> str:
    return f"{name}-{number}"


def _has(report: Report, number: int, name: str) -> bool:
    return any(name in crop.pixels for crop in report.crops[number])


def _float_is_shared(report: Report) -> bool:
    """Tell whether the float networks of all runs draw the same."""
    for crops in zip(*report.crops, strict=True):
        first, *others = (crop.pixels[FLOAT] for crop in crops)
        if any(other.shape != first.shape or differences(other, first).max() > ALIKE for other in others):
            return False
    return True


def _maps(report: Report, number: int) -> Iterator[tuple[str, NDArray[np.uint8], float | None]]:
    """Yield the differences of all compared pairs in one crop, run by run."""
    several = len(report.runs) > 1
    for run, crops in zip(report.runs, report.crops, strict=True):
        pixels = crops[number].pixels
        for first, second in COMPARED:
            if first in pixels and second in pixels:
                label = f"{run.name}: {first}" if several else first
                decibels = psnr(luma(pixels[first]), luma(pixels[second]), PEAK)
                levels = differences(pixels[first], pixels[second])
                yield f"{label} \N{MINUS SIGN} {second}", levels, decibels if np.isfinite(decibels) else None


def _viewer(
    report: Report,
    number: int,
    sources: Mapping[str, tuple[Layer, Source]],
    maps: Sequence[tuple[str, NDArray[np.uint8], float | None]],
    end: int,
) -> Viewer:
    crop, gray = report.crops[0][number], report.runs[0].run.record.channels == 1
    addresses = {
        key: address_of(_shown(report.crops[run][number], name, gray=gray)) for key, (_, (run, name)) in sources.items()
    }
    shown = [
        DifferenceMap(label, map_address(levels, end), int(levels.max()), decibels) for label, levels, decibels in maps
    ]
    window = crop.window
    place = f"{window.width} \N{MULTIPLICATION SIGN} {window.height} pixels at ({window.left}, {window.top})"
    return Viewer(crop.image, place, window.width, window.height, addresses, shown)


def _shown(crop: Crop, name: str, *, gray: bool) -> Pixels:
    """Return the pixels of an output. Networks for Y are compared with the Y of others."""
    pixels = crop.pixels[name]
    return luma(pixels).round().astype(np.uint8)[..., None] if gray and pixels.shape[-1] > 1 else pixels
