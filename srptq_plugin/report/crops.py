"""The parts of images where integers differ most from float, cut out of all outputs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from srptq_plugin.data.resize import Pixels
from srptq_plugin.evaluation.outputs import FLOAT, RUNTIME, SIMULATED

SIDE = 192
"""The most pixels of a side of a crop."""
Outputs = Mapping[str, Pixels]


@dataclass(frozen=True)
class Window:
    """A part of an output image, in its pixels."""

    top: int
    left: int
    height: int
    width: int

    def cut(self, pixels: Pixels) -> Pixels:
        """Cut this part out of an image."""
        return np.ascontiguousarray(pixels[self.top : self.top + self.height, self.left : self.left + self.width])


@dataclass(frozen=True)
class Crop:
    """The same part of all outputs for an image.

    Attributes:
        image: The name of the image.
        window: The part.
        loss: The mean squared difference of integers and float in it.
        pixels: The part of each output, by the output's name.
    """

    image: str
    window: Window
    loss: float
    pixels: Outputs

    @classmethod
    def of(cls, image: str, window: Window, outputs: Outputs, loss: float = 0.0) -> "Crop":
        """Cut a window out of all outputs."""
        return cls(image, window, loss, {name: window.cut(pixels) for name, pixels in outputs.items()})


class CropPicker:
    """Looks at the outputs for one image after another, and keeps the crops that lose most."""

    def __init__(self, count: int, scale: int) -> None:
        self._count, self._scale = count, scale
        self._best: list[Crop] = []

    def __call__(self, image: str, outputs: Outputs) -> None:
        """Find the window of an image where integers and float differ most."""
        integers = outputs[RUNTIME if RUNTIME in outputs else SIMULATED]
        window, loss = find_window(integers, outputs[FLOAT], self._scale)
        if len(self._best) < self._count or loss > self._best[-1].loss:
            ranked = sorted([*self._best, Crop.of(image, window, outputs, loss)], key=lambda crop: -crop.loss)
            self._best = ranked[: self._count]

    @property
    def crops(self) -> Sequence[Crop]:
        """The crops, from the greatest loss on."""
        return self._best


class CropKeeper:
    """Looks at the outputs of another run, and cuts out what a picker chose in the first one."""

    def __init__(self, crops: Sequence[Crop]) -> None:
        self._windows = {crop.image: crop.window for crop in crops}
        self._kept: dict[str, Crop] = {}

    def __call__(self, image: str, outputs: Outputs) -> None:
        """Cut the chosen window, if there is one in this image."""
        if image in self._windows:
            self._kept[image] = Crop.of(image, self._windows[image], outputs)

    @property
    def crops(self) -> Sequence[Crop]:
        """The crops, in the order in which they were chosen."""
        return [self._kept[image] for image in self._windows]


def find_window(output: Pixels, reference: Pixels, step: int) -> tuple[Window, float]:
    """Return the window in which two images differ most, at a multiple of `step`, and its mean squared difference.

    >>> black, dotted = np.zeros((400, 300, 3), np.uint8), np.zeros((400, 300, 3), np.uint8)
    >>> dotted[390, 10] = 255
    >>> find_window(dotted, black, 4)[0]
    Window(top=200, left=0, height=192, width=192)
    """
    squares = np.square(output.astype(np.float64) - reference).mean(-1)
    height, width = (min(SIDE, side) for side in squares.shape)
    # sums over all windows from the integral image, whose first row and column are 0
    integral = np.pad(squares.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    sums = (
        integral[height:, width:]
        - integral[:-height, width:]
        - integral[height:, :-width]
        + integral[:-height, :-width]
    )
    coarse = sums[::step, ::step]
    row, column = np.unravel_index(int(coarse.argmax()), coarse.shape)
    return Window(int(row) * step, int(column) * step, height, width), float(coarse[row, column]) / (height * width)
