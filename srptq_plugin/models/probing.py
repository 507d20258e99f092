"""Run a network at small sizes: which sizes it takes, and how much larger its output is."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from srptq_plugin.errors import SrptqError, first_line
from srptq_plugin.graph.types import Size

MULTIPLES = (1, 2, 4, 8, 16, 32, 64)
LEAST = (16, 64)
"""The smallest sides tried for each multiple: some networks need a larger image."""
Sides = tuple[int, int]


@dataclass(frozen=True)
class Sizing:
    """The upscaling factor, the number that sides must be a multiple of, and whether one size is taken only."""

    scale: int
    multiple: int = 1
    fixed: bool = False


def sizing_of(name: str, module: nn.Module, level: float, size: Size | None = None) -> Sizing:
    """Find the smallest multiple at which a network runs on a gray image, or else whether it runs at a size."""
    problems: list[SrptqError] = []
    for multiple, sides in _probes():
        try:
            return Sizing(_scale_at(module, level, sides), multiple)
        except SrptqError as error:
            problems.append(error)
    if size is not None:
        return Sizing(_scale_of(name, module, level, size[2:]), fixed=True)
    told = next((each for each in problems if isinstance(each, _WrongOutputError)), problems[-1])
    raise SrptqError(f"model {name}: {told}") from told


def _scale_of(name: str, module: nn.Module, level: float, sides: Sides) -> int:
    try:
        return _scale_at(module, level, sides)
    except SrptqError as error:
        raise SrptqError(f"model {name}: {error}") from error


def _probes() -> Iterator[tuple[int, Sides]]:
    """Yield odd multiples for the height, which no larger multiple divides."""
    for multiple in MULTIPLES:
        for height in sorted({multiple * (-(-least // multiple) | 1) for least in LEAST}):
            yield multiple, (height, height + multiple)


class _WrongOutputError(SrptqError):
    """The network ran, and its output is no enlarged image."""


def _scale_at(module: nn.Module, level: float, sides: Sides) -> int:
    output = _output(module, level, sides)
    shape = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
    scale = shape[-1] // sides[-1] if isinstance(shape, list) and shape else 0
    if scale < 1 or shape != [1, 3, *(scale * side for side in sides)]:
        raise _WrongOutputError(
            f"input {[1, 3, *sides]} gave {shape}; "
            "its output must be one RGB image, a whole number of times as high and as wide"
        )
    return scale


def _output(module: nn.Module, level: float, sides: Sides) -> object:
    try:
        with torch.no_grad():
            return module(torch.full((1, 3, *sides), level))
    except Exception as error:
        raise SrptqError(
            f"running it on an input of {[1, 3, *sides]} failed ({type(error).__name__}: {first_line(error)}); it must "
            f"accept one RGB image whose height and width are any multiple of 1, 2, 4 or another power of two up to "
            f"{MULTIPLES[-1]}, or the only size that `input_size` gives"
        ) from error
