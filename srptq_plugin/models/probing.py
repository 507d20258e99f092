"""Running a network at small sizes to learn which sizes it takes and how much larger its output is."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from srptq_plugin.errors import SrptqError, first_line
from srptq_plugin.graph.types import Size

MULTIPLES = (1, 2, 4, 8, 16, 32, 64)
LEAST = (16, 64)
"""The smallest sides tried for each multiple. Some networks need a larger image."""
Sides = tuple[int, int]


@dataclass(frozen=True)
class Sizing:
    """The upscaling factor, the number that divides all sides, and whether the network runs at one size only."""

    scale: int
    multiple: int = 1
    fixed: bool = False


def probe(name: str, module: nn.Module, level: float, size: Size | None = None) -> Sizing:
    """Run a network on gray images and return the smallest multiple of sides that works.

    Args:
        name: The network's name, for errors.
        module: The network.
        level: The level of gray.
        size: The input to try last, if no multiple works.
    """
    problems: list[SrptqError] = []
    for multiple, sides in _probes():
        try:
            return Sizing(_scale_at(module, level, sides), multiple)
        except SrptqError as error:
            problems.append(error)
    if size is not None:
        return _probe_fixed(name, module, level, size[2:])
    # A network that ran and gave the wrong shape says more than one that failed at some size.
    problem = next((error for error in problems if isinstance(error, _WrongOutputError)), problems[-1])
    raise SrptqError(f"model {name}: {problem}") from problem


def _probe_fixed(name: str, module: nn.Module, level: float, sides: Sides) -> Sizing:
    try:
        return Sizing(_scale_at(module, level, sides), fixed=True)
    except SrptqError as error:
        raise SrptqError(f"model {name}: {error}") from error


def _probes() -> Iterator[tuple[int, Sides]]:
    """Yield each multiple with sides that are multiples of it, but not all of the next one."""
    for multiple in MULTIPLES:
        # ceil(least / multiple), made odd: multiple * odd is no multiple of 2 * multiple, so a pass proves this one.
        for height in sorted({multiple * (-(-least // multiple) | 1) for least in LEAST}):
            yield multiple, (height, height + multiple)


class _WrongOutputError(SrptqError):
    """The network ran, but its output is not an enlarged image."""


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
            f"{MULTIPLES[-1]}, or be quantized for one input size"
        ) from error
